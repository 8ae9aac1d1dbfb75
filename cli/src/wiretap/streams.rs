//! Which bytes of a stream were not heard before: a tap hears a packet once on each interface that it passes, and again
//! when it is sent again.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::packet::TcpPacket;

/// More streams than this are forgotten all at once; their next bytes are then counted as new.
const MOST_STREAMS: usize = 65_536;

/// The place up to which each direction of each connection was heard.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    heard: HashMap<(SocketAddr, SocketAddr), u32>,
}

impl Streams {
    /// The part of the payload that is new. A gap is passed over: what is missing was not heard and will not be.
    pub(crate) fn new_bytes<'a>(&mut self, packet: &TcpPacket<'a>) -> &'a [u8] {
        if self.heard.len() >= MOST_STREAMS {
            self.heard.clear();
        }
        let direction = (packet.from, packet.to);
        let end = packet.sequence.wrapping_add(u32::try_from(packet.payload.len()).unwrap_or(u32::MAX));
        let Some(heard) = self.heard.get(&direction).copied().filter(|heard| is_near(*heard, packet)) else {
            self.heard.insert(direction, end);
            return packet.payload;
        };
        // Sequence numbers turn over (RFC 9293 3.4): distances are what counts.
        let known = heard.wrapping_sub(packet.sequence).cast_signed().max(0);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let new = packet.payload.get(known..).unwrap_or_default();
        if !new.is_empty() {
            self.heard.insert(direction, end);
        }
        new
    }
}

/// Whether the packet continues the stream that was heard. A SYN elsewhere begins another one between the same ports.
fn is_near(heard: u32, packet: &TcpPacket<'_>) -> bool {
    const WINDOW: u32 = 1 << 30;
    let distance = packet.sequence.wrapping_sub(heard).cast_signed().unsigned_abs();
    if packet.syn { distance == 0 } else { distance < WINDOW }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u32, payload: &[u8]) -> TcpPacket<'_> {
        let (from, to) = ("10.83.0.2:40000".parse().unwrap(), "10.83.0.3:8080".parse().unwrap());
        TcpPacket { from, to, sequence, syn: false, payload }
    }

    /// What is heard of the packets, joined.
    fn heard(packets: &[TcpPacket<'_>]) -> String {
        let mut streams = Streams::default();
        packets.iter().map(|packet| String::from_utf8_lossy(streams.new_bytes(packet))).collect()
    }

    #[test]
    fn a_packet_heard_twice_counts_once() {
        assert_eq!(
            heard(&[packet(5, b"abc"), packet(5, b"abc"), packet(8, b"de"), packet(8, b"de")]),
            "abcde"
        );
    }

    #[test]
    fn of_an_overlapping_packet_only_the_rest_is_new() {
        assert_eq!(heard(&[packet(5, b"abc"), packet(6, b"bcde")]), "abcde");
    }

    #[test]
    fn a_gap_is_passed_over() {
        assert_eq!(heard(&[packet(5, b"abc"), packet(20, b"xyz")]), "abcxyz");
    }

    #[test]
    fn sequence_numbers_may_turn_over() {
        assert_eq!(
            heard(&[packet(u32::MAX - 1, b"abc"), packet(u32::MAX - 1, b"abc"), packet(1, b"de")]),
            "abcde"
        );
    }

    #[test]
    fn a_new_connection_between_the_same_ports_is_heard_from_its_start() {
        let syn = TcpPacket { syn: true, ..packet(1_000, b"") };
        assert_eq!(heard(&[packet(5_000, b"abc"), syn.clone(), syn, packet(1_000, b"de")]), "abcde");
    }

    #[test]
    fn directions_and_connections_are_told_apart() {
        let back = TcpPacket {
            from: "10.83.0.3:8080".parse().unwrap(),
            to: "10.83.0.2:40000".parse().unwrap(),
            ..packet(5, b"re")
        };
        assert_eq!(heard(&[packet(5, b"go"), back]), "gore");
    }
}

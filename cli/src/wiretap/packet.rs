//! IPv4 (RFC 791), IPv6 (RFC 8200) and TCP (RFC 9293) headers, as far as a wiretap needs them: who speaks to whom, at
//! which place of the stream, which bytes.
//!
//! Packets come from the kernel but are made by anybody: each read is bounds-checked, and what is not whole is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;

/// The headers before TCP are at most this many; more is no packet of an honest sender.
const MAX_EXTENSIONS: usize = 16;

/// One TCP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpPacket<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Sequence number of the first byte of `payload`.
    pub(crate) sequence: u32,
    /// Whether it opens the stream; the payload then begins one later.
    pub(crate) syn: bool,
    pub(crate) payload: &'a [u8],
}

/// Reads an IP packet, without link-layer header. `None` where it is not TCP, is a fragment, or is not whole.
pub(crate) fn parse(packet: &[u8]) -> Option<TcpPacket<'_>> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<TcpPacket<'_>> {
    let mut reader = Reader(packet);
    let header_length = usize::from(reader.u8()? & 0x0f) * 4;
    reader.take(1)?; // type of service
    let total_length = usize::from(reader.u16()?);
    reader.take(2)?; // identification
    let more_and_offset = reader.u16()? & 0x3fff;
    reader.take(1)?; // time to live
    let protocol = reader.u8()?;
    reader.take(2)?; // checksum
    let from = Ipv4Addr::from(reader.array::<4>()?);
    let to = Ipv4Addr::from(reader.array::<4>()?);
    if header_length < 20 || protocol != TCP || more_and_offset != 0 {
        return None;
    }
    // Whatever stands behind the packet is padding of the link layer. 0 is a packet that hardware is yet to split.
    let packet = if total_length == 0 { packet } else { packet.get(..total_length)? };
    parse_tcp(from.into(), to.into(), packet.get(header_length..)?)
}

fn parse_v6(packet: &[u8]) -> Option<TcpPacket<'_>> {
    let mut reader = Reader(packet);
    reader.take(4)?; // version, class, flow label
    let length = usize::from(reader.u16()?);
    let mut next = reader.u8()?;
    reader.take(1)?; // hop limit
    let from = Ipv6Addr::from(reader.array::<16>()?);
    let to = Ipv6Addr::from(reader.array::<16>()?);
    // 0 is a jumbogram or a packet that hardware is yet to split.
    let mut reader = if length == 0 { reader } else { Reader(reader.take(length)?) };
    for _ in 0..MAX_EXTENSIONS {
        if next == TCP {
            return parse_tcp(from.into(), to.into(), reader.0);
        }
        next = skip_extension(next, &mut reader)?;
    }
    None
}

/// Skips one extension header (RFC 8200 4, RFC 4302 2) and says what follows. `None` for a fragment and for anything that
/// is no extension header.
fn skip_extension(kind: u8, reader: &mut Reader<'_>) -> Option<u8> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    let next = reader.u8()?;
    let length = usize::from(reader.u8()?);
    match kind {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => reader.take(length * 8 + 6)?,
        AUTHENTICATION => reader.take((length * 4 + 6).max(6))?,
        FRAGMENT => {
            let more_and_offset = reader.u16()? & 0xfff9;
            if more_and_offset != 0 {
                return None;
            }
            reader.take(4)?
        }
        _ => return None,
    };
    Some(next)
}

fn parse_tcp(from: IpAddr, to: IpAddr, segment: &[u8]) -> Option<TcpPacket<'_>> {
    let mut reader = Reader(segment);
    let from = SocketAddr::new(from, reader.u16()?);
    let to = SocketAddr::new(to, reader.u16()?);
    let sequence = u32::from_be_bytes(reader.array()?);
    reader.take(4)?; // acknowledgement
    let header_length = usize::from(reader.u8()? >> 4) * 4;
    let syn = reader.u8()? & 0x02 != 0;
    if header_length < 20 {
        return None;
    }
    let payload = segment.get(header_length..)?;
    Some(TcpPacket { from, to, sequence: sequence.wrapping_add(u32::from(syn)), syn, payload })
}

/// Takes from the front; never reads behind the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HELLO: &[u8] = b"hello";

    fn tcp(payload: &[u8], flags: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(8080_u16.to_be_bytes());
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend([0; 4]);
        // With one option of four bytes.
        bytes.extend([6 << 4, flags, 0, 0, 0, 0, 0, 0]);
        bytes.extend([1; 4]);
        bytes.extend(payload);
        bytes
    }

    fn v4(protocol: u8, fragment: u16, options: usize, body: &[u8]) -> Vec<u8> {
        let header = 20 + options;
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        bytes.extend(u16::try_from(header + body.len()).unwrap().to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 10, 83, 0, 2, 10, 83, 0, 3]);
        bytes.extend(vec![1; options]);
        bytes.extend(body);
        bytes
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("fd00::3".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(body);
        bytes
    }

    /// An extension header of eight bytes before what follows.
    fn extension(next: u8, rest: &[u8]) -> Vec<u8> {
        [&[next, 0, 0, 0, 0, 0, 0, 0], rest].concat()
    }

    fn payload(packet: &[u8]) -> Option<&[u8]> {
        parse(packet).map(|packet| packet.payload)
    }

    #[test]
    fn a_packet_says_who_speaks_to_whom_where_in_the_stream() {
        let bytes = v4(6, 0, 0, &tcp(HELLO, 0x18));
        let packet = parse(&bytes).unwrap();
        assert_eq!(packet.from, "10.83.0.2:40000".parse().unwrap());
        assert_eq!(packet.to, "10.83.0.3:8080".parse().unwrap());
        assert_eq!((packet.sequence, packet.syn, packet.payload), (7, false, HELLO));
    }

    #[test]
    fn a_syn_takes_one_place_of_the_stream() {
        let bytes = v6(6, &tcp(b"", 0x02));
        let packet = parse(&bytes).unwrap();
        assert_eq!(packet.from, "[fd00::2]:40000".parse().unwrap());
        assert_eq!((packet.sequence, packet.syn), (8, true));
    }

    #[rstest]
    #[case::v4_with_options(v4(6, 0, 8, &tcp(HELLO, 0)))]
    #[case::v4_do_not_fragment(v4(6, 0x4000, 0, &tcp(HELLO, 0)))]
    #[case::v4_padded([v4(6, 0, 0, &tcp(HELLO, 0)), vec![0; 6]].concat())]
    #[case::v6(v6(6, &tcp(HELLO, 0)))]
    #[case::v6_hop_by_hop(v6(0, &extension(6, &tcp(HELLO, 0))))]
    #[case::v6_routing_then_options(v6(43, &extension(60, &extension(6, &tcp(HELLO, 0)))))]
    #[case::v6_authentication(v6(51, &[&[6, 4][..], &[0; 22], &tcp(HELLO, 0)].concat()))]
    #[case::v6_atomic_fragment(v6(44, &extension(6, &tcp(HELLO, 0))))]
    fn the_payload_is_found_behind_every_header(#[case] packet: Vec<u8>) {
        assert_eq!(payload(&packet), Some(HELLO));
    }

    #[rstest]
    #[case::empty(vec![])]
    #[case::udp(v4(17, 0, 0, &tcp(HELLO, 0)))]
    #[case::first_fragment(v4(6, 0x2000, 0, &tcp(HELLO, 0)))]
    #[case::later_fragment(v4(6, 0x0001, 0, &tcp(HELLO, 0)))]
    #[case::v6_fragment(v6(44, &[&[6, 0, 0, 8, 0, 0, 0, 0][..], &tcp(HELLO, 0)].concat()))]
    #[case::v6_icmp(v6(58, &tcp(HELLO, 0)))]
    #[case::endless_options(v6(60, &extension(60, &[]).repeat(40)))]
    #[case::version_5([&[0x50][..], &v4(6, 0, 0, &tcp(HELLO, 0))[1..]].concat())]
    fn what_is_no_whole_tcp_packet_is_skipped(#[case] packet: Vec<u8>) {
        assert_eq!(parse(&packet), None);
    }

    #[rstest]
    #[case(v4(6, 0, 8, &tcp(HELLO, 0)))]
    #[case(v6(43, &extension(60, &extension(6, &tcp(HELLO, 0)))))]
    fn a_packet_that_was_cut_anywhere_is_skipped(#[case] packet: Vec<u8>) {
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length]), None, "cut to {length} bytes");
        }
    }
}

//! How much of what was heard stands in TLS records, and how much does not.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Segment;

/// The largest body of a record: TLS 1.2's, which may be compressed (RFC 5246 6.2.3).
const LARGEST: usize = 16 * 1024 + 2048;

/// What was said between two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Talk {
    /// One of them.
    pub one: SocketAddr,
    /// The other.
    pub other: SocketAddr,
    /// Bytes of TLS records, their heads among them.
    pub tls: u64,
    /// Bytes of anything else.
    pub plaintext: u64,
}

/// What was said between each two addresses on the wire; what goes between a sidecar and its app is left out.
///
/// A tap may begin in the middle of a record, or miss a packet: what it hears until a packet begins with a record again
/// counts as neither. Where none ever does, it counts as plaintext.
#[must_use]
pub fn talks(segments: &[Segment]) -> Vec<Talk> {
    let mut ways: HashMap<(SocketAddr, SocketAddr), Way> = HashMap::new();
    for segment in segments.iter().filter(|segment| !segment.is_app_leg()) {
        ways.entry((segment.from, segment.to)).or_default().hear(&segment.payload);
    }
    let mut talks: HashMap<(SocketAddr, SocketAddr), Talk> = HashMap::new();
    for ((from, to), way) in ways {
        let (one, other) = (from.min(to), from.max(to));
        let talk = talks.entry((one, other)).or_insert(Talk { one, other, tls: 0, plaintext: 0 });
        talk.tls += way.tls;
        talk.plaintext += way.unknown;
    }
    let mut talks: Vec<Talk> = talks.into_values().collect();
    talks.sort_by_key(|talk| (talk.one, talk.other));
    talks
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    tls: u64,
    /// Heard since records were last recognized.
    unknown: u64,
    /// Whether records are recognized.
    in_step: bool,
    /// Bytes to come of the body of a record.
    left: usize,
    /// Of a head that came in pieces.
    head: Vec<u8>,
}

impl Way {
    fn hear(&mut self, mut bytes: &[u8]) {
        if !self.in_step && begins_a_record(bytes) {
            (self.in_step, self.left, self.unknown) = (true, 0, 0);
            self.head.clear();
        }
        while self.in_step && !bytes.is_empty() {
            let body = self.left.min(bytes.len());
            self.left -= body;
            self.tls += body as u64;
            let (_, rest) = bytes.split_at(body);
            let (head, rest) = rest.split_at((5 - self.head.len()).min(rest.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if let [_, _, _, high, low] = self.head[..] {
                if begins_a_record(&self.head) {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    self.tls += 5;
                } else {
                    self.in_step = false;
                    self.unknown += 5;
                }
                self.head.clear();
            }
        }
        self.unknown += bytes.len() as u64;
    }
}

/// Whether bytes begin as a TLS record: its type, its version, a length that can be.
fn begins_a_record(bytes: &[u8]) -> bool {
    match bytes {
        [20..=23, 3, 0..=4, high, low, ..] => {
            (1..=LARGEST).contains(&usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rstest::rstest;

    use super::*;

    fn heard(pieces: &[&[u8]]) -> Vec<Talk> {
        let segment = |payload: &&[u8]| Segment {
            at: SystemTime::UNIX_EPOCH,
            from: "10.0.0.7:4312".parse().unwrap(),
            to: "10.0.0.8:3000".parse().unwrap(),
            payload: payload.to_vec(),
        };
        talks(&pieces.iter().map(segment).collect::<Vec<_>>())
    }

    const RECORD: &[u8] = &[23, 3, 3, 0, 4, 1, 2, 3, 4];

    #[rstest]
    #[case::a_record(&[RECORD], 9, 0)]
    #[case::records_in_pieces(&[RECORD, &[23, 3], &[3, 0, 1], &[9, 23, 3, 3, 0, 2, 7], &[7]], 9 + 6 + 7, 0)]
    #[case::plaintext(&[&b"GET / HTTP/1.1\r\n"[..], b"\r\n"], 0, 18)]
    #[case::plaintext_after_records(&[RECORD, b"GET / HTTP/1.1"], 9, 14)]
    #[case::the_middle_of_a_record_first(&[&[1, 2, 3, 4, 5, 6], RECORD], 9, 0)]
    #[case::a_gap(&[RECORD, &[23, 3, 3, 0, 200, 1], &[7; 300], RECORD], 9 + 200 + 5 + 9, 0)]
    #[case::short(&[&b"a"[..]], 0, 1)]
    fn bytes_are_told_apart(#[case] pieces: &[&[u8]], #[case] tls: u64, #[case] plaintext: u64) {
        let talks = heard(pieces);
        assert_eq!((talks[0].tls, talks[0].plaintext), (tls, plaintext));
    }

    #[test]
    fn every_cut_of_a_stream_of_records_gives_the_same() {
        let stream: Vec<u8> = (1..40_u8)
            .flat_map(|length| [&[23, 3, 3, 0, length][..], &vec![length; length.into()]].concat())
            .collect();
        for size in 5..60 {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(
                (heard(&pieces)[0].tls, heard(&pieces)[0].plaintext),
                (stream.len() as u64, 0),
                "{size}"
            );
        }
    }
}

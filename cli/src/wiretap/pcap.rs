//! The classic capture file format (draft-ietf-opsawg-pcap) with link type RAW: what Wireshark and tcpdump open.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const SNAPSHOT_LENGTH: u32 = 262_144;
/// Packets begin with the IP header.
const LINKTYPE_RAW: u32 = 101;

/// Writes the file header.
pub(crate) fn write_header(file: &mut impl Write) -> io::Result<()> {
    file.write_all(&MAGIC_MICROSECONDS.to_le_bytes())?;
    file.write_all(&2_u16.to_le_bytes())?;
    file.write_all(&4_u16.to_le_bytes())?;
    file.write_all(&[0; 8])?; // time zone and accuracy, unused
    file.write_all(&SNAPSHOT_LENGTH.to_le_bytes())?;
    file.write_all(&LINKTYPE_RAW.to_le_bytes())
}

/// Writes one packet.
pub(crate) fn write_packet(file: &mut impl Write, at: SystemTime, packet: &[u8]) -> io::Result<()> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
    let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
    file.write_all(&seconds.to_le_bytes())?;
    file.write_all(&since.subsec_micros().to_le_bytes())?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(packet)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_a_header_and_packets_with_their_time() {
        let mut file = Vec::new();
        write_header(&mut file).unwrap();
        assert_eq!(file.len(), 24);
        write_packet(&mut file, UNIX_EPOCH + Duration::from_micros(3_000_005), b"abc").unwrap();
        assert_eq!(&file[24..], [&[3, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0][..], b"abc"].concat());
    }
}

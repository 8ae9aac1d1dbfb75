//! Server-sent events as text (HTML standard, 9.2): written for the page, and read from other proxies for the dashboard.

use hyper::body::Bytes;
use serde_json::Value;

/// The media type.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
/// Bytes of one event that are read from another proxy.
const MAX_EVENT: usize = 1024 * 1024;

/// An event of the kind `name`.
pub(crate) fn frame(name: &str, data: &Value) -> Bytes {
    // Compact JSON has no line breaks.
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// What says nothing, so that both ends notice where the other is gone.
pub(crate) fn nothing() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// Reads events of [`frame`] from pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pending: Vec<u8>,
}

impl Reader {
    /// The events that are whole with `piece`; none where it is no stream of ours.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Option<Vec<(String, Value)>> {
        self.pending.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut rest = self.pending.as_slice();
        while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
            let (event, tail) = rest.split_at(end);
            rest = tail.get(2..).unwrap_or_default();
            if event != b":" {
                events.push(parse(event)?);
            }
        }
        let read = self.pending.len() - rest.len();
        self.pending.drain(..read);
        (self.pending.len() <= MAX_EVENT).then_some(events)
    }
}

fn parse(event: &[u8]) -> Option<(String, Value)> {
    let (name, data) = std::str::from_utf8(event).ok()?.split_once('\n')?;
    let data = serde_json::from_str(data.strip_prefix("data: ")?).ok()?;
    Some((name.strip_prefix("event: ")?.to_owned(), data))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_however_it_is_cut() {
        let events =
            [("hello", json!({"proxy": 0})), ("connection", json!({"sni": "a\n\nevent: b\ndata: 1\n\n"}))];
        let text: Vec<u8> =
            events.iter().flat_map(|(name, data)| [frame(name, data), nothing()].concat()).collect();
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            let mut reader = Reader::default();
            let read = [reader.read(one).unwrap(), reader.read(other).unwrap()].concat();
            assert_eq!(read, events.clone().map(|(name, data)| (name.to_owned(), data)), "cut at {cut}");
            assert!(reader.pending.is_empty());
        }
    }

    #[test]
    fn what_is_no_stream_of_ours_or_never_ends_is_given_up() {
        assert_eq!(Reader::default().read(b"HTTP/1.1 200 OK\n\n"), None);
        assert_eq!(Reader::default().read(b"event: a\ndata: {\n\n"), None);
        assert_eq!(Reader::default().read(&vec![b'x'; MAX_EVENT + 1]), None);
    }
}

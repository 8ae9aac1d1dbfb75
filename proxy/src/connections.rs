//! The table of connections: those that are open, and those that ended and are still told of. One record per connection;
//! when it ends, the record is logged and counted once.

mod history;
mod onlookers;

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use pillion_mesh::migration::{Tally, Watched};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::reason::{Kind, Reason};
use pillion_mesh::wire::{
    By, Closed, ConnectionRecord, Direction, FirstPassed, RequestRecord, Times, WireRecord,
};
use pillion_mesh::workload::Workload;
use tokio::sync::broadcast;

use crate::memory;
use crate::net::capture::Capture;
use crate::net::moved::Moved;
use crate::net::relay::End;
use crate::net::tap::Tap;
use crate::telemetry::Telemetry;
use history::History;
use onlookers::Onlookers;
pub(crate) use onlookers::{Event, MAX_ONLOOKERS};

/// All connections that are open now, and the last that were.
#[derive(Debug)]
pub(crate) struct ConnectionTable {
    open: Mutex<HashMap<u64, Arc<Entry>>>,
    history: Mutex<History>,
    onlookers: Onlookers,
    tally: Mutex<Tally>,
    last_id: AtomicU64,
    capture: Arc<Capture>,
}

impl Default for ConnectionTable {
    /// Empty. From now on it counts who comes.
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            history: Mutex::default(),
            onlookers: Onlookers::default(),
            tally: Mutex::new(Tally::new(SystemTime::now())),
            last_id: AtomicU64::default(),
            capture: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    record: Mutex<ConnectionRecord>,
    moved: Moved,
    /// Of the leg that speaks TLS, where one does.
    tap: OnceLock<Arc<Tap>>,
}

impl ConnectionTable {
    /// The records of all open connections, oldest first.
    pub(crate) fn list(&self) -> Vec<ConnectionRecord> {
        let entries: Vec<_> = lock(&self.open).values().cloned().collect();
        let mut records: Vec<_> = entries.iter().map(|entry| entry.shown()).collect();
        records.sort_by_key(|record| record.id);
        records
    }

    /// The switch by which plaintext is kept.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// The records of the last connections that were served and have ended, oldest first.
    pub(crate) fn ended(&self) -> Vec<ConnectionRecord> {
        lock(&self.history).ended()
    }

    /// The records of the connections that were refused lately, oldest first.
    pub(crate) fn refused(&self) -> Vec<ConnectionRecord> {
        lock(&self.history).refused(Instant::now())
    }

    /// The records of the requests that were refused or cut lately, oldest first, whatever became of their connections.
    pub(crate) fn refused_requests(&self) -> Vec<RequestRecord> {
        lock(&self.history).refused_requests(Instant::now())
    }

    /// A request has ended: it is kept where it was refused or cut.
    pub(crate) fn request_ended(&self, record: RequestRecord) {
        memory::stirs();
        let mut history = lock(&self.history);
        if record.reason.kind() != Kind::Ended {
            self.onlookers.tell(|| Event::Request(Arc::new(record.clone())));
        }
        history.request_ended(record, Instant::now());
    }

    /// All connections that are known, open, ended or refused, in the order in which they were accepted.
    pub(crate) fn all(&self) -> Vec<ConnectionRecord> {
        let mut records = [self.list(), self.ended(), self.refused()].concat();
        records.sort_by_key(|record| record.id);
        // One that ended between two of the lists stands in both.
        records.dedup_by_key(|record| record.id);
        records
    }

    /// Word of each connection from now on, when it is admitted and when it is over; none where enough look on already.
    pub(crate) fn look_on(&self) -> Option<broadcast::Receiver<Event>> {
        self.onlookers.join()
    }

    /// The bytes that the newest open connections have moved to the server and to the client, `most` connections at most.
    pub(crate) fn moved(&self, most: usize) -> Vec<(u64, [u64; 2])> {
        let mut entries: Vec<_> = lock(&self.open).iter().map(|(id, entry)| (*id, entry.clone())).collect();
        entries.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let moved = |entry: &Entry| [entry.moved.to_server(), entry.moved.to_client()];
        entries.iter().take(most).map(|(id, entry)| (*id, moved(entry))).collect()
    }

    /// Who has come to the ports of `workload`, for which `snapshot` was made, and how.
    pub(crate) fn watched(&self, workload: &Workload, snapshot: &Snapshot) -> Watched {
        let open = self.list();
        lock(&self.tally).told(workload, snapshot, &open, SystemTime::now())
    }

    /// The connections that were refused, or on which a request was, newest first.
    pub(crate) fn refusals(&self) -> Vec<u64> {
        lock(&self.history).refusals(Instant::now())
    }
}

impl Entry {
    /// As it is shown to who asks for it: with the first bytes that passed.
    fn shown(&self) -> ConnectionRecord {
        let record = self.now();
        ConnectionRecord { wire: self.wire(record.direction), ..record }
    }

    /// The first bytes that passed, where any did and are kept.
    fn wire(&self, direction: Direction) -> Option<Box<WireRecord>> {
        let mesh = self.tap.get().map(|tap| {
            let (from_peer, to_peer) = tap.first_bytes();
            match direction {
                Direction::Inbound => FirstPassed { to_server: from_peer, to_client: to_peer },
                Direction::Outbound => FirstPassed { to_server: to_peer, to_client: from_peer },
            }
        });
        let mesh = mesh.filter(|passed| *passed != FirstPassed::default());
        let app = self.moved.captured();
        (mesh.is_some() || app.is_some()).then(|| Box::new(WireRecord { mesh, app }))
    }

    /// The first end that was seen on one of the sockets.
    fn first_end(&self, direction: Direction) -> Option<Closed> {
        let broke_off = || {
            let how = self.tap.get()?.broke_off()?;
            Some(Closed { by: By::peer(direction), how })
        };
        self.moved.first_end().or_else(broke_off)
    }

    /// As it is logged and counted.
    fn now(&self) -> ConnectionRecord {
        self.up_to_date().clone()
    }

    /// The record with what has moved so far.
    fn up_to_date(&self) -> MutexGuard<'_, ConnectionRecord> {
        let mut record = lock(&self.record);
        let moved = &self.moved;
        (record.bytes_to_server, record.bytes_to_client) = (moved.to_server(), moved.to_client());
        (record.times.asked, record.times.answered) = (moved.asked(), moved.answered());
        record.duration_micros = moved.micros();
        record
    }

    /// Notes what was learnt, and that it is known from now on.
    fn note(&self, note: impl FnOnce(&mut ConnectionRecord)) {
        let now = self.moved.micros();
        let mut record = lock(&self.record);
        note(&mut record);
        let ConnectionRecord { first_bytes, tls, authorization, upstream, times, .. } = &mut *record;
        for (known, time) in [
            (first_bytes.is_some(), &mut times.first_bytes),
            (tls.is_some(), &mut times.handshake),
            (authorization.is_some(), &mut times.authorized),
            (upstream.is_some(), &mut times.dialled),
        ] {
            if known && time.is_none() {
                *time = Some(now);
            }
        }
    }

    /// The other side has taken the connection.
    fn connected(&self) {
        let now = self.moved.micros();
        lock(&self.record).times.connected.get_or_insert(now);
    }
}

/// One open connection. Dropped without [`Connection::end`], as by a panic, it ends with [`Reason::Internal`].
#[derive(Debug)]
pub(crate) struct Connection {
    entry: Arc<Entry>,
    table: Arc<ConnectionTable>,
    telemetry: Arc<Telemetry>,
    opened: bool,
    ended: bool,
}

impl Connection {
    /// Enters a connection that was just accepted.
    pub(crate) fn begin(
        table: &Arc<ConnectionTable>,
        telemetry: &Arc<Telemetry>,
        direction: Direction,
        client: SocketAddr,
    ) -> Self {
        let id = table.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let record = blank(id, direction, client);
        let moved = Moved::since(Instant::now(), table.capture.clone());
        let entry = Arc::new(Entry { record: Mutex::new(record), moved, tap: OnceLock::new() });
        lock(&table.open).insert(id, entry.clone());
        Self { entry, table: table.clone(), telemetry: telemetry.clone(), opened: false, ended: false }
    }

    /// Notes what was learnt.
    pub(crate) fn note(&self, note: impl FnOnce(&mut ConnectionRecord)) {
        self.entry.note(note);
    }

    /// The address that dialled.
    pub(crate) fn client(&self) -> SocketAddr {
        lock(&self.entry.record).client
    }

    /// Its number, as the access log and `/connections` have it.
    pub(crate) fn id(&self) -> u64 {
        lock(&self.entry.record).id
    }

    /// Where the first bytes of the leg that speaks TLS are kept.
    pub(crate) fn tap(&self) -> Arc<Tap> {
        self.entry.tap.get_or_init(Arc::default).clone()
    }

    /// What others may look at and add to while it is open.
    pub(crate) fn notes(&self) -> Notes {
        Notes(self.entry.clone())
    }

    /// What has moved, for who moves it.
    pub(crate) fn moved(&self) -> &Moved {
        &self.entry.moved
    }

    /// The other side has taken the connection.
    pub(crate) fn connected(&self) {
        self.entry.connected();
    }

    /// The connection was admitted and both legs stand: it counts as opened.
    pub(crate) fn opened(&mut self) {
        self.opened = true;
        let now = self.entry.moved.micros();
        let mut record = self.entry.up_to_date();
        record.times.opened = Some(now);
        self.telemetry.opened(&record);
        lock(&self.table.tally).count(&record);
        self.table.onlookers.tell(|| Event::Connection(Arc::new(record.clone())));
    }

    /// The connection has ended: logs and counts it.
    pub(crate) fn end(mut self, end: End) {
        self.close(end);
    }

    /// It was no connection but a tunnel, whose streams have records of their own: nobody is told of an end.
    pub(crate) fn becomes_tunnel(mut self) {
        self.ended = true;
        lock(&self.table.open).remove(&self.id());
    }

    fn close(&mut self, end: End) {
        memory::stirs();
        self.ended = true;
        let id = self.id();
        lock(&self.table.open).remove(&id);
        let mut record = self.last();
        record.reason = Some(end.reason);
        record.detail = end.detail;
        let direction = record.direction;
        record.closed = Some(Closed::of(end.reason, direction, self.entry.first_end(direction)));
        self.telemetry.closed(&record, self.opened);
        if !self.opened {
            lock(&self.table.tally).count(&record);
        }
        // In no log: it is for who asks.
        record.wire = self.entry.wire(direction);
        // Told while nobody can read the list: who begins to look on now has it by the one or by the other.
        let forgotten = {
            let mut history = lock(&self.table.history);
            self.table.onlookers.tell(|| Event::Connection(Arc::new(record.clone())));
            history.ended_now(record, Instant::now())
        };
        drop(forgotten); // where nobody waits for it
    }

    /// The record as it was in the end. Where nobody else can look at it any more, it need not be copied.
    fn last(&mut self) -> ConnectionRecord {
        if let Some(entry) = Arc::get_mut(&mut self.entry) {
            let mut record = entry.up_to_date();
            let spent = blank(record.id, record.direction, record.client);
            return mem::replace(&mut *record, spent);
        }
        self.entry.now()
    }
}

/// A record of which only the beginning is known.
fn blank(id: u64, direction: Direction, client: SocketAddr) -> ConnectionRecord {
    ConnectionRecord {
        id,
        direction,
        accepted: SystemTime::now(),
        client,
        original_destination: None,
        first_bytes: None,
        looks_like: None,
        mode: None,
        service: None,
        plan: None,
        tls: None,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        duration_micros: 0,
        times: Times::default(),
        reason: None,
        detail: None,
        closed: None,
        wire: None,
    }
}

/// The record of an open connection, for those who serve a part of it. Clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct Notes(Arc<Entry>);

impl Notes {
    /// Notes what was learnt.
    pub(crate) fn note(&self, note: impl FnOnce(&mut ConnectionRecord)) {
        self.0.note(note);
    }

    pub(crate) fn id(&self) -> u64 {
        lock(&self.0.record).id
    }

    /// The address that dialled.
    pub(crate) fn client(&self) -> SocketAddr {
        lock(&self.0.record).client
    }

    /// What has moved.
    pub(crate) fn moved(&self) -> &Moved {
        &self.0.moved
    }

    /// The other side has taken the connection.
    pub(crate) fn connected(&self) {
        self.0.connected();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            self.telemetry.panicked();
        }
        self.close(End { reason: Reason::Internal, detail: Some("its task ended early".to_owned()) });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! A name server on loopback that answers as it is told, over UDP and TCP.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// What is said of a name.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These addresses, for so many seconds. A family that none of them is of is answered with nothing.
    Addresses(u32, Vec<IpAddr>),
    /// The same, but over UDP only that the answer is too long for it.
    OverTcp(u32, Vec<IpAddr>),
    /// The same for IPv4; about IPv6 the server fails.
    FailingIpv6(u32, Vec<IpAddr>),
    /// There is no such name (NXDOMAIN).
    NoSuchName,
    /// The server fails (SERVFAIL).
    Failure,
    /// Not a word.
    Silence,
}

/// A name server. What it was not told of does not exist.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
    known: Arc<Mutex<Known>>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug, Default)]
struct Known {
    replies: HashMap<String, Reply>,
    /// Questions for IPv4 addresses, by name.
    asked: HashMap<String, usize>,
}

impl NameServer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().unwrap();
        let known = Arc::<Mutex<Known>>::default();
        let tasks = [
            tokio::spawn(serve_udp(udp, Arc::clone(&known))),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&known))),
        ];
        Self { address, known, tasks }
    }

    /// From now on it says this of `name`, which is written without the dot at its end.
    ///
    /// # Panics
    /// Never.
    pub fn says(&self, name: &str, reply: Reply) {
        self.known.lock().unwrap().replies.insert(name.to_ascii_lowercase(), reply);
    }

    /// How often it was asked for the IPv4 addresses of `name`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        self.known.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One port for both.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for UDP and TCP alike");
}

async fn serve_udp(socket: UdpSocket, known: Arc<Mutex<Known>>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = reply(&buffer[..length], true, &known) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, known: Arc<Mutex<Known>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer_all(stream, Arc::clone(&known)));
    }
}

/// Questions and answers have their length before them (RFC 1035, 4.2.2).
async fn answer_all(mut stream: TcpStream, known: Arc<Mutex<Known>>) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.ok()?;
        let reply = reply(&question, false, &known)?;
        stream.write_u16(u16::try_from(reply.len()).unwrap()).await.ok()?;
        stream.write_all(&reply).await.ok()?;
    }
}

fn reply(question: &[u8], over_udp: bool, known: &Mutex<Known>) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(question).ok()?;
    let query = message.queries.first()?.clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let is_ipv4 = query.query_type() == RecordType::A;
    let reply = {
        let mut known = known.lock().unwrap();
        if is_ipv4 {
            *known.asked.entry(name.clone()).or_default() += 1;
        }
        known.replies.get(&name).cloned().unwrap_or(Reply::NoSuchName)
    };
    message.additionals.clear();
    let mut message = message.into_response();
    let mut add = |ttl: u32, addresses: Vec<IpAddr>| {
        for address in addresses.into_iter().filter(|address| address.is_ipv4() == is_ipv4) {
            message.add_answer(Record::from_rdata(query.name().clone(), ttl, RData::from(address)));
        }
    };
    match reply {
        Reply::Addresses(ttl, addresses) => add(ttl, addresses),
        Reply::OverTcp(ttl, addresses) if !over_udp => add(ttl, addresses),
        Reply::OverTcp(..) => message.metadata.truncation = true,
        Reply::FailingIpv6(ttl, addresses) if is_ipv4 => add(ttl, addresses),
        Reply::FailingIpv6(..) | Reply::Failure => message.metadata.response_code = ResponseCode::ServFail,
        Reply::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Reply::Silence => return None,
    }
    message.to_vec().ok()
}

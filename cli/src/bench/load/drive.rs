//! The load generator whose next operation begins when the last one is done (a closed loop), and the one that holds idle
//! connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::app::{CHUNK, ECHO, SINK, SOURCE};
use super::job::{Order, Work};
use super::tally::Tally;
use super::tls::{self, Counted};

/// The longest that one operation may take; then it has failed.
const TOO_LONG: Duration = Duration::from_secs(20);

/// How many connections are opened at once, or have traffic.
const OPENING: usize = 64;

/// How often the flag is looked for.
const FLAG: Duration = Duration::from_millis(10);

/// Runs the order to its end.
pub(super) fn run(order: &Order) -> anyhow::Result<()> {
    let alone = matches!(order.work, Work::RoundTrip { connections: 1, .. });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if alone { 1 } else { cores };
    let mut runtime = if alone {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    runtime.enable_all().build()?.block_on(work(order, threads))
}

async fn work(order: &Order, threads: usize) -> anyhow::Result<()> {
    let target = order.target;
    match &order.work {
        Work::Connect { workers, tls } => {
            // Each has sessions of its own: what it resumes is what it was given last.
            let connector = || tls.as_ref().map(tls::connector).transpose();
            let connectors = (0..*workers).map(|_| connector()).collect::<anyhow::Result<Vec<_>>>()?;
            prime(order, &connectors).await?;
            super::ready(order);
            let tally = Arc::new(Tally::new(order));
            let worker = |connector| connect_again_and_again(target, connector, Arc::clone(&tally));
            finish(order, connectors.into_iter().map(worker).collect(), tally, threads).await
        }
        Work::RoundTrip { connections, size } => {
            let streams = open(target, *connections).await?;
            super::ready(order);
            let (tally, size) = (Arc::new(Tally::new(order)), *size);
            let worker = |stream| round_trips(stream, size, Arc::clone(&tally));
            finish(order, streams.into_iter().map(worker).collect(), tally, threads).await
        }
        Work::Bulk { connections, from_app } => {
            super::ready(order);
            let tally = Arc::new(Tally::new(order));
            let worker = |_| bulk(target, *from_app, Arc::clone(&tally));
            finish(order, (0..*connections).map(worker).collect(), tally, threads).await
        }
        Work::Hold { connections, traffic } => {
            let held = open(target, *connections).await?;
            println!("{}", super::HOLDING);
            while !order.flag.exists() {
                tokio::time::sleep(FLAG).await;
            }
            let held = exchange(held, *traffic).await?;
            println!("{}", super::EXCHANGED);
            // Until it is killed.
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
        Work::FixedRate { .. } => anyhow::bail!("a fixed rate is another load generator's"),
    }
}

/// A first connection by each, which is not counted: it gets what the next one resumes.
async fn prime(order: &Order, connectors: &[Option<TlsConnector>]) -> anyhow::Result<()> {
    let uncounted = Tally::new(order);
    for connector in connectors.iter().flatten() {
        let primed = timeout(TOO_LONG, connect_once(order.target, Some(connector), &uncounted)).await;
        primed.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    Ok(())
}

/// Waits for all workers; what they have open stays so until the outcome has been told.
async fn finish(
    order: &Order,
    all: JoinSet<Option<TcpStream>>,
    tally: Arc<Tally>,
    threads: usize,
) -> anyhow::Result<()> {
    let still_open = all.join_all().await;
    let tally = Arc::into_inner(tally).ok_or_else(|| anyhow::anyhow!("a worker is left over"))?;
    super::tell(order, &tally.finish(threads))?;
    drop(still_open);
    Ok(())
}

async fn connect_again_and_again(
    target: SocketAddr,
    connector: Option<TlsConnector>,
    tally: Arc<Tally>,
) -> Option<TcpStream> {
    while tally.goes_on() {
        match timeout(TOO_LONG, connect_once(target, connector.as_ref(), &tally)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tally.failed(&error),
            Err(_late) => tally.failed(&io::ErrorKind::TimedOut.into()),
        }
    }
    None
}

async fn connect_once(target: SocketAddr, connector: Option<&TlsConnector>, tally: &Tally) -> io::Result<()> {
    let begun = Instant::now();
    let stream = dial(target).await?;
    let connected = begun.elapsed();
    let (sent, received) = match connector {
        None => {
            let mut stream = Counted::new(stream);
            echo_once(&mut stream).await?;
            tally.done(begun, &[("connect", connected), ("whole", begun.elapsed())]);
            end(&mut stream).await?;
            stream.bytes()
        }
        Some(connector) => {
            let name = ServerName::try_from(tls::SERVER_NAME).map_err(io::Error::other)?;
            let mut stream = connector.connect(name, Counted::new(stream)).await?;
            let shaken = begun.elapsed();
            echo_once(&mut stream).await?;
            let handshake = shaken.saturating_sub(connected);
            let steps = [("connect", connected), ("handshake", handshake), ("whole", begun.elapsed())];
            tally.done(begun, &steps);
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                tally.resumed.fetch_add(1, Ordering::Relaxed);
            }
            end(&mut stream).await?;
            stream.get_ref().0.bytes()
        }
    };
    tally.sent.fetch_add(sent, Ordering::Relaxed);
    tally.received.fetch_add(received, Ordering::Relaxed);
    Ok(())
}

async fn echo_once(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&[ECHO]).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0_u8; 1]).await.map(drop)
}

/// Ends both directions cleanly, so that closing a connection is part of what it costs.
async fn end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0_u8; 1]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "expected one byte back, got more")),
        // Some peers end a TLS stream without close_notify, or by a reset once both have said all.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connections on which an echo has come back, so that all that lies between is open too.
async fn open(target: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() >= OPENING
            && let Some(opened) = opening.join_next().await
        {
            open.push(opened??);
        }
        opening.spawn(async move {
            let opened = async {
                let mut stream = dial(target).await?;
                echo_once(&mut stream).await?;
                Ok::<_, io::Error>(stream)
            };
            timeout(TOO_LONG, opened).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
        });
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    Ok(open)
}

/// Sends bytes on each connection and has them back.
async fn exchange(streams: Vec<TcpStream>, size: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut done = Vec::with_capacity(streams.len());
    let mut busy = JoinSet::new();
    for mut stream in streams {
        if busy.len() >= OPENING
            && let Some(stream) = busy.join_next().await
        {
            done.push(stream??);
        }
        busy.spawn(async move {
            let (message, mut answer) = (vec![ECHO; size], vec![0_u8; size]);
            let (mut from, mut to) = stream.split();
            let both = async { tokio::try_join!(to.write_all(&message), from.read_exact(&mut answer)) };
            timeout(TOO_LONG, both).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))?;
            Ok::<_, io::Error>(stream)
        });
    }
    while let Some(stream) = busy.join_next().await {
        done.push(stream??);
    }
    Ok(done)
}

async fn round_trips(mut stream: TcpStream, size: usize, tally: Arc<Tally>) -> Option<TcpStream> {
    let (message, mut answer) = (vec![ECHO; size], vec![0_u8; size]);
    while tally.goes_on() {
        let begun = Instant::now();
        let trip = async {
            stream.write_all(&message).await?;
            stream.read_exact(&mut answer).await
        };
        match timeout(TOO_LONG, trip).await {
            Ok(Ok(_)) => tally.done(begun, &[("whole", begun.elapsed())]),
            Ok(Err(error)) => {
                tally.failed(&error);
                break;
            }
            Err(_late) => {
                tally.failed(&io::ErrorKind::TimedOut.into());
                break;
            }
        }
    }
    Some(stream)
}

async fn bulk(target: SocketAddr, from_app: bool, tally: Arc<Tally>) -> Option<TcpStream> {
    let moved = if from_app { download(target, &tally).await } else { upload(target, &tally).await };
    match moved {
        Ok(bytes) => {
            tally.operations.fetch_add(bytes, Ordering::Relaxed);
            let counter = if from_app { &tally.received } else { &tally.sent };
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
        Err(error) => tally.failed(&error),
    }
    None
}

/// Bytes that the app says it has got.
async fn upload(target: SocketAddr, tally: &Tally) -> io::Result<u64> {
    let mut stream = dial(target).await?;
    stream.write_all(&[SINK]).await?;
    let chunk = vec![0x5a_u8; CHUNK];
    while tally.goes_on() {
        stream.write_all(&chunk).await?;
    }
    stream.shutdown().await?;
    let mut count = [0_u8; 8];
    match timeout(TOO_LONG, stream.read_exact(&mut count)).await {
        Ok(read) => read.map(|_| u64::from_be_bytes(count)),
        Err(_late) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn download(target: SocketAddr, tally: &Tally) -> io::Result<u64> {
    let mut stream = dial(target).await?;
    stream.write_all(&[SOURCE]).await?;
    let (mut buffer, mut count, mut told) = (vec![0_u8; CHUNK], 0_u64, false);
    let last = tokio::time::Instant::from_std(tally.end()) + TOO_LONG;
    loop {
        if !told && !tally.goes_on() {
            stream.shutdown().await?;
            told = true;
        }
        let length =
            timeout_at(last, stream.read(&mut buffer)).await.map_err(|_late| io::ErrorKind::TimedOut)??;
        if length == 0 {
            return Ok(count);
        }
        count = count.saturating_add(u64::try_from(length).unwrap_or_default());
    }
}

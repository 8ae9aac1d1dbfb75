//! The terminal: a screen that gives back what was there before, whatever ends it, and what the person does at it.

use std::io::{self, Read, Write, stdin, stdout};
use std::panic;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use pillion_mesh::top::{Emphasis, Line};
use rustix::process::{Signal as Sent, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Where nobody says how large the terminal is.
const SIZE: (usize, usize) = (80, 24);
/// Another screen, without a cursor and without breaking lines.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// The former one, as it was.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// How the terminal was before there was a [`Screen`]; none while there is none.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The whole terminal, for as long as it lives.
pub(super) struct Screen {
    loud: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When stdin is no terminal, or it cannot be written to.
    pub(super) fn enter() -> io::Result<Self> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let told = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                leave();
                told(info);
            }));
        });
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let screen = Self { loud: AutoStream::choice(&stdout()) != ColorChoice::Never };
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        write(ENTER)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE,
        }
    }

    /// Shows these lines and nothing else.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let drawn = lines.iter().map(|line| {
            let style = self.style(line.emphasis);
            format!("{style}{}{style:#}\x1b[K", line.text)
        });
        write(&format!("\x1b[H{}\x1b[J", drawn.collect::<Vec<_>>().join("\r\n")))
    }

    fn style(&self, emphasis: Emphasis) -> Style {
        match emphasis {
            Emphasis::Heading => Style::new().bold(),
            Emphasis::Alarm if self.loud => AnsiColor::Red.on_default(),
            Emphasis::Plain | Emphasis::Alarm => Style::new(),
        }
    }

    /// Gives the terminal back and stops, as Ctrl-Z asks for; takes it again when it is woken.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub(super) fn suspend(self) -> io::Result<Self> {
        drop(self);
        kill_process(getpid(), Sent::TSTP)?;
        Self::enter()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back, where it was taken.
fn leave() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing can be done where the terminal is gone.
        let _ = write(LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What happens at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A key; control characters come as they are.
    Key(char),
    /// Its size has changed.
    Resized,
    /// A signal with this number asks to end.
    Ended(u8),
}

/// What happens at this terminal, one after the other.
pub(super) struct Events {
    keys: mpsc::Receiver<char>,
    resized: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

/// Listens from now on. The keys are read by a thread, which ends with the process.
///
/// # Errors
/// When the signals cannot be heard.
pub(super) fn events() -> io::Result<Events> {
    let (press, keys) = mpsc::channel(16);
    thread::spawn(move || {
        for byte in stdin().lock().bytes() {
            if !byte.is_ok_and(|byte| press.blocking_send(char::from(byte)).is_ok()) {
                return;
            }
        }
    });
    Ok(Events {
        keys,
        resized: signal(SignalKind::window_change())?,
        hangup: signal(SignalKind::hangup())?,
        interrupt: signal(SignalKind::interrupt())?,
        quit: signal(SignalKind::quit())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

impl Events {
    /// The next one. A terminal that has no more keys has hung up.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            key = self.keys.recv() => key.map_or(Event::Ended(1), Event::Key),
            _ = self.resized.recv() => Event::Resized,
            _ = self.hangup.recv() => Event::Ended(1),
            _ = self.interrupt.recv() => Event::Ended(2),
            _ = self.quit.recv() => Event::Ended(3),
            _ = self.terminate.recv() => Event::Ended(15),
        }
    }
}

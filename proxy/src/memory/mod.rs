//! Memory goes back to the system when it is not needed any more.
//!
//! An allocator keeps what was freed, for it is likely to be asked for again. A sidecar that had a thousand connections a
//! minute ago would so look for ever as if it still had them. So each thread that serves gives back what is free when nothing
//! has happened on it for a quarter of a second, and now and then where something always happens.
//!
//! And the code that has read the settings and made the first certificates stays mapped, though it hardly runs again: it is
//! let go once, after the start. What is needed of it comes back from the page cache by itself.
//!
//! Leaves to `raw` the two calls that Rust cannot check.

mod raw;

use std::cell::Cell;
use std::convert::Infallible;
use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::debug;

/// So long nothing happens on a thread that is quiet.
const QUIET: Duration = Duration::from_millis(250);
/// So long a thread keeps what is free, at most.
const LONGEST: Duration = Duration::from_secs(10);

thread_local! {
    static STIR: Stir = Stir::default();
}

/// Whether anything happens on a thread.
#[derive(Debug, Default)]
struct Stir {
    since: Cell<bool>,
    wake: Arc<Notify>,
}

/// Something happens on this thread that takes memory and frees it. Costs next to nothing.
pub(crate) fn stirs() {
    STIR.with(|stir| {
        if !stir.since.replace(true) {
            stir.wake.notify_one();
        }
    });
}

/// Gives back what is free on this thread, as long as it is polled there. Asleep while nothing happens.
pub(crate) async fn keep_small() -> Infallible {
    keep(raw::give_back).await
}

async fn keep(give_back: impl Fn()) -> Infallible {
    let wake = STIR.with(|stir| stir.wake.clone());
    let since = || STIR.with(|stir| stir.since.replace(false));
    loop {
        if !since() {
            wake.notified().await;
            continue;
        }
        let begun = Instant::now();
        loop {
            sleep(QUIET).await;
            if !since() || begun.elapsed() >= LONGEST {
                break;
            }
        }
        give_back();
        // And what another thread has freed since, of what this one had asked for.
        sleep(QUIET).await;
        give_back();
    }
}

/// Lets go what only the start needed: code, and what is free.
pub(crate) fn forget_the_start() {
    raw::give_back();
    match fs::read_to_string("/proc/self/smaps") {
        Ok(smaps) => unchanged_files(&smaps).into_iter().for_each(raw::let_go),
        // It would only be smaller.
        Err(fault) => debug!("/proc/self/smaps cannot be read: {fault}"),
    }
}

/// Where files are mapped that nobody writes to and that have no page of our own, in the text of proc_pid_smaps(5): their
/// pages can be read again at any time.
fn unchanged_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((begin, end)) = first.split_once('-') {
            let (rights, path) = (words.next().unwrap_or_default(), words.nth(3).unwrap_or_default());
            let address = |text| usize::from_str_radix(text, 16).ok();
            let is_file = path.starts_with('/') && matches!(rights, "r--p" | "r-xp");
            mapping = address(begin).zip(address(end)).filter(|_| is_file).map(|(begin, end)| begin..end);
        } else if first == "Anonymous:" && words.next() == Some("0") {
            found.extend(mapping.take());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5570ec500000-5570ecc7e000 r--p 00000000 fe:00 131 /usr/local/bin/pillion
Size:               7672 kB
Rss:                2048 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
5570ecc7e000-5570ee3c8000 r-xp 0077d000 fe:00 131 /usr/local/bin/pillion
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
5570ee3c9000-5570ee457000 r--p 01ec7000 fe:00 131 /usr/local/bin/pillion
Anonymous:           568 kB
5570ee458000-5570ee45d000 rw-p 01f55000 fe:00 131 /usr/local/bin/pillion
Anonymous:             0 kB
5570ef000000-5570ef021000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
7ff35cc6f000-7ff35cc71000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7ff35d000000-7ff35d001000 r--s 00000000 fe:00 140 /var/shared
Anonymous:             0 kB
";

    #[test]
    fn only_files_without_a_page_of_our_own_can_be_let_go() {
        let code = [0x5570_ec50_0000..0x5570_ecc7_e000, 0x5570_ecc7_e000..0x5570_ee3c_8000];
        assert_eq!(unchanged_files(SMAPS), code);
        assert!(unchanged_files("garbage\n-\nz-z r-xp\nAnonymous: 0 kB\n").is_empty());
    }

    #[test]
    fn a_process_goes_on_without_the_code_of_its_start() {
        forget_the_start();
        assert_eq!("still".len() + "here".len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_when_a_thread_is_quiet_and_not_before() {
        let given = Cell::new(0);
        let keeping = keep(|| given.set(given.get() + 1));
        let story = async {
            sleep(100 * QUIET).await;
            assert_eq!(given.get(), 0, "nothing has happened");
            for _ in 0..4 {
                stirs();
                sleep(QUIET / 2).await;
            }
            assert_eq!(given.get(), 0, "it was not quiet");
            sleep(4 * QUIET).await;
            assert_eq!(given.get(), 2);
            sleep(100 * QUIET).await;
            assert_eq!(given.get(), 2, "nothing has happened since");
        };
        tokio::select! { never = keeping => match never {}, () = story => {} }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_is_never_quiet_gives_back_too() {
        let given = Cell::new(0);
        let keeping = keep(|| given.set(given.get() + 1));
        let story = async {
            for _ in 0..280 {
                stirs();
                sleep(QUIET / 2).await;
            }
            assert!(given.get() >= 2);
        };
        tokio::select! { never = keeping => match never {}, () = story => {} }
    }
}

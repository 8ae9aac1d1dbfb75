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
        Ok(smaps) => own_code(&smaps, here()).into_iter().for_each(raw::let_go),
        // It would only be smaller.
        Err(fault) => debug!("/proc/self/smaps cannot be read: {fault}"),
    }
}

/// An address in this program's code.
fn here() -> usize {
    forget_the_start as fn() as usize
}

/// One mapping in the text of proc_pid_smaps(5).
#[derive(Debug)]
struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// Pages that are not the file's any more: those that are here, and those that are swapped out. In kB; none where it is not
    /// told.
    changed: [Option<&'a str>; 2],
}

impl<'a> Mapping<'a> {
    /// By the line with which it begins.
    fn begin(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(begin)?..address(end)?;
        let (rights, _offset, device, inode) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self { range, rights, file: (device, inode), changed: [None; 2] })
    }

    fn is_unchanged(&self) -> bool {
        matches!(self.rights, "r--p" | "r-xp") && self.changed == [Some("0"); 2]
    }
}

/// Where the program that has `address` in it is mapped as it is in its file. Nobody maps it anew while it runs, which cannot
/// be said of libraries: another thread may just load one.
fn own_code(smaps: &str, address: usize) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::begin(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some((name, told))) = (mappings.last_mut(), line.split_once(':')) {
            let size = told.split_ascii_whitespace().next();
            match name {
                "Anonymous" => mapping.changed[0] = size,
                "Swap" => mapping.changed[1] = size,
                _ => {}
            }
        }
    }
    let program =
        mappings.iter().find(|mapping| mapping.range.contains(&address)).map(|mapping| mapping.file);
    let is_own = |mapping: &Mapping<'_>| Some(mapping.file) == program && mapping.is_unchanged();
    mappings.into_iter().filter(is_own).map(|mapping| mapping.range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five of the program, of which the third was changed, the fourth was and is swapped out, and the fifth can be written;
    /// one of a library, and one of no file.
    const SMAPS: &str = "\
5570ec500000-5570ecc7e000 r--p 00000000 fe:00 131 /usr/local/my bin/pillion (deleted)
Size:               7672 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
5570ecc7e000-5570ee3c8000 r-xp 0077d000 fe:00 131 /usr/local/my bin/pillion (deleted)
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me sd
5570ee3c9000-5570ee457000 r--p 01ec7000 fe:00 131 /usr/local/my bin/pillion (deleted)
Anonymous:           568 kB
Swap:                  0 kB
5570ee457000-5570ee458000 r--p 01f55000 fe:00 131 /usr/local/my bin/pillion (deleted)
Anonymous:             0 kB
Swap:                  4 kB
5570ee458000-5570ee45d000 rw-p 01f55000 fe:00 131 /usr/local/my bin/pillion (deleted)
Anonymous:             0 kB
Swap:                  0 kB
7ff35c96e000-7ff35c994000 r-xp 00000000 fe:00 77 /lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
7ff35cc6f000-7ff35cc71000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_the_programs_own_pages_that_are_as_in_its_file_can_be_let_go() {
        let code = [0x5570_ec50_0000..0x5570_ecc7_e000, 0x5570_ecc7_e000..0x5570_ee3c_8000];
        assert_eq!(own_code(SMAPS, 0x5570_ecc7_e123), code);
        assert!(own_code(SMAPS, 0x1000).is_empty(), "no mapping has this address");
        let untold = SMAPS.replace("Swap:", "Other:");
        assert!(own_code(&untold, 0x5570_ecc7_e123).is_empty(), "nothing is told of swapped pages");
        assert!(own_code("garbage\n-\nz-z r-xp\nAnonymous: 0 kB\n", 0).is_empty());
    }

    #[test]
    fn the_code_of_this_process_is_found_and_it_goes_on_without_it() {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let found = own_code(&smaps, here());
        assert!(found.iter().any(|range| range.contains(&here())), "{found:x?}");
        forget_the_start();
        assert_eq!(own_code(SMAPS, 0x5570_ecc7_e123).len(), 2);
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

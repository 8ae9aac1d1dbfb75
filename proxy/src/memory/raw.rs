//! The only place with `unsafe`: two calls about memory that Rust cannot check, each with the reason why it is sound.

#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr;

use rustix::mm::{Advice, madvise};

/// The allocator gives back to the system what is free on this thread.
pub(super) fn give_back() {
    // SAFETY: it may be called at any time on any thread (mimalloc's manual, "mi_collect"), and takes no pointer.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// The pages of a mapping are let go; they are read from the file again when they are needed.
///
/// `mapping` has to be of this program's own file, private, not writable, and without a page that was changed, here or swapped
/// out: `own_code` finds such. Of any other the content would be lost.
pub(super) fn let_go(mapping: Range<usize>) {
    let begin = ptr::with_exposed_provenance_mut(mapping.start);
    // SAFETY: nobody sees a difference: the pages are those of the file, before and after (madvise(2), MADV_DONTNEED). And the
    // mapping is still what it was when it was found: nothing maps a program's own file anew while it runs.
    let done = unsafe { madvise(begin, mapping.len(), Advice::LinuxDontNeed) };
    // It would only be smaller.
    let _ = done;
}

//! Questions for names under way: a bounded number at once, the answers together as they come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::dns::{Answer, Dns};

/// Names that are asked for at once.
const AT_ONCE: usize = 32;
/// How long answers are gathered, so that many that come together are put in force together.
const GATHER: Duration = Duration::from_millis(50);

/// One answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) name: String,
    pub(super) asked: Instant,
    pub(super) answer: Answer,
}

/// Names to ask for, names that are asked for, and answers that nobody took yet.
#[derive(Debug)]
pub(super) struct Questions {
    dns: Arc<Dns>,
    waiting: VecDeque<String>,
    asked: JoinSet<Answered>,
    answers: Vec<Answered>,
    take_at: Instant,
}

impl Questions {
    pub(super) fn new(dns: Arc<Dns>) -> Self {
        Self {
            dns,
            waiting: VecDeque::new(),
            asked: JoinSet::new(),
            answers: Vec::new(),
            take_at: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, names: Vec<String>) {
        self.waiting.extend(names);
    }

    /// Whether there is nothing to wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty() && self.answers.is_empty()
    }

    /// Some answers; none where nothing is asked. Nothing is lost where nobody waits to the end.
    pub(super) async fn answered(&mut self) -> Vec<Answered> {
        loop {
            self.ask();
            if self.asked.is_empty() || !self.answers.is_empty() && self.take_at <= Instant::now() {
                return std::mem::take(&mut self.answers);
            }
            tokio::select! {
                Some(answered) = self.asked.join_next() => {
                    if self.answers.is_empty() {
                        self.take_at = Instant::now() + GATHER;
                    }
                    self.answers.extend(answered.ok());
                }
                () = sleep_until(self.take_at), if !self.answers.is_empty() => {}
            }
        }
    }

    fn ask(&mut self) {
        while self.asked.len() < AT_ONCE {
            let Some(name) = self.waiting.pop_front() else { return };
            let dns = Arc::clone(&self.dns);
            self.asked.spawn(async move {
                let asked = Instant::now();
                let answer = dns.ask(&name).await;
                Answered { name, asked, answer }
            });
        }
    }
}

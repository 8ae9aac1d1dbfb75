//! The same AuthorizationPolicies given to pillion, as Istio's YAML, and to Envoy, as istiod translates them: each request
//! and each connection meets the same verdict. Where pillion is another by design, [`differences`] says how.

mod differences;
mod generate;
mod istiod;
mod policy;
mod stage;

use std::path::Path;

use super::harness::program;
use generate::{Generator, Ports};
use istiod::Chain;
use policy::Policy;
use stage::{Answered, Asked, Stage};

/// Sets of policies, and questions to each.
const SETS: usize = 48;
const QUESTIONS: usize = 20;

#[test]
fn requests_meet_the_same_verdict() {
    let Some(envoy) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let ports = stage::http_apps();
    compare(&envoy, ports, Chain::Http);
}

#[test]
fn connections_meet_the_same_verdict() {
    let Some(envoy) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let ports = stage::echo_apps();
    compare(&envoy, ports, Chain::Tcp);
}

fn compare(envoy: &Path, ports: Ports, chain: Chain) {
    let seed = seed();
    let (sets, questions): (Vec<Vec<Policy>>, Vec<Vec<Asked>>) = draw(seed, ports, chain).into_iter().unzip();
    let stage = Stage::new(envoy, ports, chain, &sets);
    let compared = stage.with_each(&sets, |set, pillion| {
        let compare = |asked: &Asked| {
            let bytes = asked.bytes();
            let by_envoy = stage.ask_envoy(set, asked, &bytes);
            let by_pillion = stage.ask_pillion(pillion, asked, &bytes);
            Compared { set, asked: asked.clone(), by_envoy, by_pillion }
        };
        questions[set].iter().map(compare).collect()
    });
    let differ: Vec<&Compared> =
        compared.iter().filter(|compared| compared.by_envoy != compared.by_pillion).collect();
    let shown: Vec<String> =
        differ.iter().take(3).map(|compared| compared.told(&sets[compared.set])).collect();
    assert!(differ.is_empty(), "{} differences with seed {seed}:\n{}", differ.len(), shown.join("\n"));

    let allowed =
        compared.iter().filter(|compared| matches!(compared.by_envoy, Answered::Status(200, _))).count();
    let denied = compared.len() - allowed;
    println!("{allowed} allowed, {denied} denied");
    assert_eq!(compared.len(), SETS * QUESTIONS);
    assert!(allowed.min(denied) * 5 >= compared.len(), "{allowed} allowed, {denied} denied: one is rare");
}

/// What both answered.
struct Compared {
    set: usize,
    asked: Asked,
    by_envoy: Answered,
    by_pillion: Answered,
}

impl Compared {
    fn told(&self, policies: &[Policy]) -> String {
        let Self { asked, by_envoy, by_pillion, .. } = self;
        format!("{asked:?}\nEnvoy: {by_envoy:?}\npillion: {by_pillion:?}\n{}", policy::yaml(policies))
    }
}

/// The same at each run, so that a failure is one of the change at hand; `PILLION_TEST_SEED` asks for another.
fn seed() -> u64 {
    let seed = std::env::var("PILLION_TEST_SEED").ok().map_or(83, |seed| seed.parse().unwrap());
    println!("PILLION_TEST_SEED={seed}");
    seed
}

/// Sets of policies, each with the questions to it.
fn draw(seed: u64, ports: Ports, chain: Chain) -> Vec<(Vec<Policy>, Vec<Asked>)> {
    let mut generator = Generator::new(seed, ports);
    (0..SETS)
        .map(|_| {
            let policies = generator.policies();
            let questions = (0..QUESTIONS).map(|_| generator.asked(chain == Chain::Http)).collect();
            (policies, questions)
        })
        .collect()
}

//! `kill -9` at random moments of real puts, removals and collections. After each, the store opens, everything in it verifies, and
//! every version that was acknowledged (its command ended with 0) is there byte for byte.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Ran, noise};

/// Kills that must strike a command that still runs.
const KILLS: u32 = 110;
/// Versions that are kept at most; older ones are removed, so that collections have work.
const KEPT: usize = 3;

/// The same sequence of numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        let random = noise(self.0 ^ 0x5eed, 8);
        u64::from_le_bytes(random.try_into().unwrap()) % limit
    }
}

struct Trial {
    bench: Bench,
    dice: Dice,
    payload: Vec<u8>,
    /// What was acknowledged and not removed since.
    kept: BTreeMap<String, Vec<u8>>,
    /// How long a command of each kind takes here and now, when nothing kills it.
    usual: BTreeMap<&'static str, Duration>,
    struck: BTreeMap<&'static str, u32>,
    /// Puts that ended before they were killed.
    acknowledged: u32,
}

impl Trial {
    /// Runs `args` and kills it at a random moment; every third run is spared. Its end, if it came first, is acknowledged.
    fn strike(&mut self, what: &'static str, args: &[&str]) -> Option<Ran> {
        let usual = *self.usual.get(what).unwrap_or(&Duration::from_millis(40));
        let moment = match self.dice.below(3) {
            0 => DEADLINE,
            _ => usual.mul_f64(self.dice.below(1000) as f64 / 1000.0),
        };
        let mut command = self.bench.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        let ran = Ran::end(child);
        match ran.code {
            None => {
                *self.struck.entry(what).or_default() += 1;
                None
            }
            Some(0) => {
                self.usual.insert(what, (usual + started.elapsed()) / 2);
                Some(ran)
            }
            Some(_) => panic!("{args:?}: {ran:?}"),
        }
    }

    /// Puts a payload that has changed here and there since the last one.
    fn put(&mut self) {
        for _ in 0..3 {
            let start = self.dice.below(self.payload.len() as u64 - 100_000) as usize;
            let fresh = noise(self.dice.below(u64::MAX), 1 + self.dice.below(100_000) as usize);
            self.payload[start..start + fresh.len()].copy_from_slice(&fresh);
        }
        let len = (1 << 20) + self.dice.below(3 << 20) as usize;
        let bytes = self.payload[..len].to_vec();
        self.bench.write("payload.bin", &bytes);
        let key = format!("k{}", self.dice.below(3));
        if let Some(ran) = self.strike("put", &["put", "payload.bin", "--as", &key, "--json"]) {
            self.acknowledged += 1;
            self.kept.insert(format!("{key}@{}", ran.json()["version"]), bytes);
        }
    }

    /// Removes an acknowledged version. Killed, it may or may not have happened: nothing more is expected of that version.
    fn remove(&mut self) {
        let index = self.dice.below(self.kept.len() as u64) as usize;
        let version = self.kept.keys().nth(index).unwrap().clone();
        self.kept.remove(&version);
        if self.strike("rm", &["rm", &version]).is_some() {
            assert_eq!(self.bench.run(&["show", &version]).code, Some(3), "{version} was removed");
        }
    }

    /// True once enough was killed, and enough of each kind: on a busy machine the dice may favour one.
    fn is_thorough(&self) -> bool {
        let struck = |what| self.struck.get(what).copied().unwrap_or_default();
        self.struck.values().sum::<u32>() >= KILLS && struck("put") > 20 && struck("gc") > 5 && self.acknowledged > 20
    }

    fn check(&self) {
        let ran = self.bench.run(&["verify", "--all", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for (version, bytes) in &self.kept {
            assert!(self.bench.get(version) == *bytes, "{version}");
        }
    }
}

#[test]
fn a_store_that_was_killed_while_it_was_made_is_made_by_the_next_put() {
    let mut dice = Dice(1000);
    for _ in 0..25 {
        let bench = Bench::new();
        bench.write("w.bin", &noise(2, 100_000));
        let mut child = bench.command(["put", "w.bin", "--as", "m", "-q"]).spawn().unwrap();
        // A store is made within milliseconds of the start.
        std::thread::sleep(Duration::from_micros(dice.below(8000)));
        child.kill().unwrap();
        Ran::end(child);
        bench.ok(&["put", "w.bin", "--as", "m"]);
        assert!(bench.get("m") == noise(2, 100_000));
        bench.ok(&["verify", "--all"]);
    }
}

#[test]
fn no_kill_costs_an_acknowledged_version() {
    let started = Instant::now();
    let bench = Bench::new();
    // Small packs: commands come to the end of one, and collections find some to rewrite.
    bench.write("store/config.toml", b"pack_bytes = 2097152\n");
    let payload = noise(1, 4 << 20);
    let (usual, struck) = (BTreeMap::new(), BTreeMap::new());
    let mut trial = Trial { bench, dice: Dice(0), payload, kept: BTreeMap::new(), usual, struck, acknowledged: 0 };
    trial.bench.put("before", b"there is a store from here on");
    let mut rounds = 0;
    while !trial.is_thorough() {
        rounds += 1;
        assert!(rounds <= 4 * KILLS, "most commands ended before they were killed: {:?}", trial.struck);
        match trial.dice.below(6) {
            _ if trial.kept.len() > KEPT => trial.remove(),
            0 if !trial.kept.is_empty() => trial.remove(),
            1 => {
                trial.strike("gc", &["gc", "--json"]);
            }
            _ => trial.put(),
        }
        trial.check();
    }
    let acknowledged = trial.acknowledged;
    let seconds = started.elapsed().as_secs_f64();
    println!("{:?} killed in {rounds} rounds, {acknowledged} puts acknowledged, {seconds:.1} s", trial.struck);
    trial.bench.ok(&["gc"]);
    trial.check();
}

#[test]
fn what_nobody_needs_is_no_damage_when_its_base_is_gone() {
    let bench = Bench::new();
    bench.write("store/config.toml", b"pack_bytes = 1048576\n");
    let first = noise(1, 1_200_000);
    let mut second = first.clone();
    second[1000..1010].fill(0);
    let kept = noise(2, 700_000);
    // In the first pack; and a difference to it in the second, beside what stays.
    bench.put("a", &first);
    bench.put("a", &second);
    bench.put("b", &kept);
    for version in ["a@1", "a@2"] {
        bench.ok(&["rm", version]);
    }
    bench.ok(&["gc"]);
    assert!(!bench.path("store/packs/p-00000001.pack").exists());
    // Built anew, or after a collection that was interrupted, the index has what lies in the packs.
    std::fs::remove_file(bench.path("store/index.journal")).unwrap();
    bench.ok(&["verify", "--all"]);
    bench.put("a", &second);
    assert!(bench.get("a") == second && bench.get("b") == kept);
    bench.ok(&["verify", "--all"]);
}

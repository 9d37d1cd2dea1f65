//! [`Lan`]: hosts on one local network, each of them a network namespace with an address of its own, at a switch that can be cut in two.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) struct Lan {
    name: String,
    hosts: usize,
}

impl Drop for Lan {
    fn drop(&mut self) {
        let hosts = (0..self.hosts).map(|host| self.host(host));
        for namespace in hosts.chain([self.switch()]) {
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip").args(args).output().map_err(|error| error.to_string())?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
    }
}

impl Lan {
    /// A network of `hosts`. It takes root and iproute2: where the system allows none, that is said, and there is none, unless
    /// `CASKAD_REQUIRE_LAN` is set.
    pub(crate) fn new(hosts: usize) -> Option<Lan> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("caskad-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lan = Lan { name, hosts };
        if let Err(why) = ip(&["netns", "add", &lan.switch()]) {
            assert!(std::env::var_os("CASKAD_REQUIRE_LAN").is_none(), "no network can be made here: {why}");
            eprintln!("left out, since no network can be made here: {why}");
            return None;
        }
        lan.connect().unwrap();
        Some(lan)
    }

    fn connect(&self) -> Result<(), String> {
        let switch = self.switch();
        for bridge in ["whole", "part"] {
            ip(&["-n", &switch, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0"])?;
            ip(&["-n", &switch, "link", "set", bridge, "up"])?;
        }
        for index in 0..self.hosts {
            let (host, port) = (self.host(index), format!("port{index}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["link", "add", &port, "netns", &switch, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "whole", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", address(index)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn host(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts
    }

    /// What runs `program` on host `index`.
    pub(crate) fn command(&self, index: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(index), program]);
        command
    }

    /// Takes `hosts` off the others: they reach each other still.
    pub(crate) fn cut_off(&self, hosts: std::ops::Range<usize>) {
        hosts.for_each(|index| self.plug(index, "part"));
    }

    /// Makes the network whole again.
    pub(crate) fn heal(&self) {
        (0..self.hosts).for_each(|index| self.plug(index, "whole"));
    }

    /// Has `hosts` reach all others, but not each other, as if each were behind a NAT.
    pub(crate) fn isolate(&self, hosts: std::ops::Range<usize>) {
        for index in hosts {
            let (switch, port) = (self.switch(), format!("port{index}"));
            ip(&["-n", &switch, "link", "set", "dev", &port, "type", "bridge_slave", "isolated", "on"]).unwrap();
        }
    }

    fn plug(&self, index: usize, bridge: &str) {
        ip(&["-n", &self.switch(), "link", "set", &format!("port{index}"), "master", bridge]).unwrap();
    }
}

/// The address of host `index`.
pub(crate) fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

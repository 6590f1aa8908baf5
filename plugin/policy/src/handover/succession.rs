//! Decides which process may ask for a hand-over: none of a pod that another pod has replaced.
//!
//! In a rolling update two pods of the plugin run on a node. If the old pod's process is killed, the kubelet starts its container again.
//! If that process took over, the new pod would never be ready, and the update would not end. Pods are distinguished by the host name,
//! which is the pod's name. All processes of a host have one name, so this never applies to them.

use std::fmt;

/// How many replaced hosts are kept. An update replaces one.
const KEPT: usize = 16;

/// Which host's process serves, and which ones it and its predecessors have replaced. Its text has one name a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Succession {
    serving: String,
    /// The latest last.
    replaced: Vec<String>,
}

impl Succession {
    /// Reads the text. Anything can be read; an empty text is that of a run directory in which no process has served.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(str::to_owned);
        let serving = lines.next().unwrap_or_default();
        Self { serving, replaced: lines.filter(|host| !host.is_empty()).collect() }
    }

    /// Returns whether a process of this host may ask the process that serves to hand over.
    #[must_use]
    pub fn may_ask(&self, host: &str) -> bool {
        self.serving == host || !self.replaced.iter().any(|replaced| replaced == host)
    }

    /// Returns what holds when a process of this host serves. A host that serves again, because its successor has ended, has not
    /// replaced it.
    #[must_use]
    pub fn serve(mut self, host: &str) -> Self {
        let serves_again = self.replaced.iter().any(|replaced| replaced == host);
        if !serves_again && !self.serving.is_empty() && self.serving != host {
            let before = std::mem::take(&mut self.serving);
            self.replaced.retain(|replaced| *replaced != before);
            self.replaced.push(before);
            let surplus = self.replaced.len().saturating_sub(KEPT);
            self.replaced.drain(..surplus);
        }
        host.clone_into(&mut self.serving);
        self
    }
}

impl fmt::Display for Succession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.serving)?;
        self.replaced.iter().try_for_each(|host| writeln!(f, "{host}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(hosts: &[&str]) -> Succession {
        // Each process reads what the one before has written.
        hosts
            .iter()
            .fold(Succession::default(), |state, host| Succession::parse(&state.serve(host).to_string()))
    }

    #[test]
    fn replaced_pod_does_not_ask_and_others_do() {
        let state = after(&["old", "new"]);
        assert!(!state.may_ask("old"));
        assert!(state.may_ask("new") && state.may_ask("third"));
        let state = after(&["old", "new", "third"]);
        assert!(!state.may_ask("old") && !state.may_ask("new"));
        assert!(Succession::default().may_ask("old"));
    }

    #[test]
    fn pod_whose_process_ends_after_it_took_over_asks_again() {
        let state = after(&["old", "new", "old"]);
        assert!(state.may_ask("new"));
        let state = state.serve("new");
        assert!(!state.may_ask("old") && state.may_ask("new"));
    }

    #[test]
    fn processes_of_one_host_always_ask() {
        assert!(after(&["node1", "node1"]).may_ask("node1"));
        assert!(after(&["node1", "pod", "node1"]).may_ask("node1"));
    }

    #[test]
    fn only_the_latest_replaced_hosts_are_kept() {
        let names: Vec<String> = (0..100).map(|number| format!("pod-{number}")).collect();
        let state = after(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(state.to_string().lines().count(), KEPT + 1);
        assert!(!state.may_ask("pod-98") && state.may_ask("pod-1"));
    }
}

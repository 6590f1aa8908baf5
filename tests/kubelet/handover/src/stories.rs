//! The ways in which the plugin is replaced, and what must hold afterwards.

use crate::node::{DEVICES, Node, PATIENCE, RESOURCE};
use crate::pods::Admissions;
use crate::process::{Process, Side, Step, Trap};
use crate::row::Found;
use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use std::fmt;
use std::time::Duration;

/// A way to replace the plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Story {
    /// Without the hand-over: SIGTERM, and the new process starts when the old one has ended. So does a DaemonSet with
    /// `maxUnavailable`, and `systemctl restart`.
    Restart,
    /// Without the hand-over: SIGKILL, and a new process starts.
    Crash,
    /// A DaemonSet with `maxSurge`: the new process starts, and SIGTERM follows when it serves.
    Surge,
    /// SIGHUP: the process starts its successor itself (`systemctl reload`).
    Reload,
    /// As [`Story::Surge`], and a process is killed when a step is written.
    Kill(Side, Step),
}

/// How many steps a hand-over has.
const STEPS: u64 = 6;
/// What the kubelet does late still counts.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The message of the plugin's log for an Allocate that it has answered with devices.
const GRANTED: &str = "Allocate granted";

/// Returns all stories. `short` kills a process only at its own lines.
pub(crate) fn all(times: u32, short: bool) -> Vec<Story> {
    let mut stories = Vec::new();
    for story in [Story::Restart, Story::Crash, Story::Surge, Story::Reload] {
        stories.extend((0..times).map(|_| story));
    }
    for victim in [Side::New, Side::Old] {
        for number in 1..=STEPS {
            for side in [Side::New, Side::Old] {
                if side == victim || !short {
                    stories.push(Story::Kill(victim, Step { side, number }));
                }
            }
        }
    }
    stories
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.order())?;
        self.kill().map_or(Ok(()), |(victim, step)| write!(f, ", {victim} killed at {step}"))
    }
}

impl Story {
    /// Returns the name of the order.
    pub(crate) fn order(self) -> &'static str {
        match self {
            Self::Restart => "stop, then start",
            Self::Crash => "kill, then start",
            Self::Surge | Self::Kill(..) => "hand-over, then stop",
            Self::Reload => "hand-over by SIGHUP",
        }
    }

    /// Returns which process is killed, and at which step.
    pub(crate) fn kill(self) -> Option<(Side, Step)> {
        match self {
            Self::Kill(victim, step) => Some((victim, step)),
            _ => None,
        }
    }

    /// Returns why the story has failed. That the node is right in the end was checked already.
    pub(crate) fn verdict(self, found: &Found) -> Option<String> {
        let gap = found.samples.gap_us > 0;
        match self {
            // Without a gap here, the samples would not show one elsewhere either.
            Self::Restart | Self::Crash => (!gap).then(|| "the samples show no gap".to_owned()),
            Self::Surge | Self::Reload => {
                let refused = found.admissions.refused.first();
                let refused = refused.map(|reason| format!("a pod was refused: {reason}"));
                gap.then(|| "devices were missing".to_owned()).or(refused)
            }
            // An end without notice may leave a gap; docs/upgrades.md has how long.
            Self::Kill(..) => None,
        }
    }
}

impl Node {
    /// Plays a story on this node, and checks the node afterwards.
    pub(crate) fn play(&mut self, story: Story) -> anyhow::Result<Found> {
        self.manager.start_sampling(RESOURCE, DEVICES)?;
        let mut admissions = Admissions::default();
        match story {
            Story::Restart => {
                let status = self.running()?.terminate(PATIENCE)?;
                ensure!(status.success(), "the old process has ended with {status}");
                self.start_process()?;
            }
            Story::Crash => {
                self.running()?.kill();
                self.start_process()?;
            }
            Story::Surge => {
                self.start_process()?;
                self.admit_until(&mut admissions, "both have written step 6", |node| {
                    Ok(node.has_written(0, Step { side: Side::Old, number: STEPS })
                        && node.has_written(1, Step { side: Side::New, number: STEPS }))
                })?;
                let status = self.running()?.terminate(PATIENCE)?;
                ensure!(status.success(), "the old process has ended with {status}");
            }
            Story::Reload => self.reload(&mut admissions)?,
            Story::Kill(victim, step) => self.kill_at(victim, step, &mut admissions)?,
        }
        self.settle(&mut admissions)?;
        let samples = self.manager.end_sampling()?;
        Ok(Found { samples, admissions })
    }
}

/// The steps of the stories.
impl Node {
    /// Returns the process that was started first.
    fn running(&mut self) -> anyhow::Result<&mut Process> {
        self.processes.first_mut().context("no process runs")
    }

    /// Returns whether process number `index` has written a step.
    fn has_written(&self, index: usize, step: Step) -> bool {
        self.processes.get(index).is_some_and(|process| process.has(step))
    }

    /// Admits pods, one after the other, until a condition holds.
    fn admit_until(
        &mut self,
        admissions: &mut Admissions,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.wait_for(what, |node| {
            node.try_pod(admissions)?;
            condition(node)
        })
    }

    /// Has the process start its successor. The successor writes to the same standard error.
    fn reload(&mut self, admissions: &mut Admissions) -> anyhow::Result<()> {
        self.running()?.signal(Signal::HUP)?;
        self.admit_until(
            admissions,
            "the new process has written step 6, and the old one has ended",
            |node| {
                Ok(node.has_written(0, Step { side: Side::New, number: STEPS })
                    && node.running()?.status()?.is_some())
            },
        )?;
        let status = self.running()?.status()?.context("the old process runs")?;
        ensure!(status.success(), "the old process has ended with {status}");
        self.successor = self.active()?;
        let successor = self.successor.context("no process has the lock after the reload")?;
        // systemd would otherwise take the end of the old process for the end of the service.
        let (expected, sent) = (format!("MAINPID={successor}"), self.notifications());
        ensure!(sent.contains(&expected), "systemd was sent {sent:?}, not {expected}");
        Ok(())
    }

    /// Starts a second process, and kills one of the two when a step is written.
    fn kill_at(&mut self, victim: Side, step: Step, admissions: &mut Admissions) -> anyhow::Result<()> {
        let old = self.running()?.pid();
        self.start_process_with(|new| {
            let victim = match victim {
                Side::Old => old,
                Side::New => new,
            };
            Trap { step, victim }
        })?;
        self.admit_until(admissions, &format!("{step} is written"), |node| {
            Ok(node.processes.iter().any(Process::trap_is_sprung))
        })?;
        let index = usize::from(victim == Side::New);
        let killed = self.processes.get_mut(index).context("no such process")?;
        killed.wait(PATIENCE)?;
        Ok(())
    }

    /// Waits until the node is right again, and checks that it stays so: all devices are allocatable, one process has the lock,
    /// assignments are those of before, and a pod gets a device.
    fn settle(&mut self, admissions: &mut Admissions) -> anyhow::Result<()> {
        let mut last = String::new();
        let outcome = self.wait_for("the node is right again, and stays so", |node| {
            // On a loaded host, a kubelet may notice the end of a process after the other one has registered again. It then
            // counts no devices a second time.
            for check in 0..2 {
                if check > 0 {
                    std::thread::sleep(AFTERMATH);
                }
                if let Some(wrong) = node.state()? {
                    last = wrong;
                    return Ok(false);
                }
            }
            let refused = admissions.refused.len();
            node.try_pod(admissions)?;
            last = format!("a pod was refused afterwards: {:?}", admissions.refused.last());
            Ok(admissions.refused.len() == refused)
        });
        outcome.with_context(|| last)?;
        // A process without the lock answers no Allocate.
        let granted: usize = self.processes.iter().map(|process| process.count(GRANTED)).sum();
        let most = self.pods.len() + admissions.admitted + admissions.refused.len();
        ensure!(granted <= most, "{granted} Allocates were answered for {most} pods");
        Ok(())
    }

    /// Returns what is not yet right.
    fn state(&mut self) -> anyhow::Result<Option<String>> {
        let mut running: Vec<Pid> = self.successor.into_iter().collect();
        for process in &mut self.processes {
            if process.status()?.is_none() {
                running.push(process.pid());
            }
        }
        let active = self.active()?;
        if running.len() != 1 || active != running.first().copied() {
            return Ok(Some(format!("{running:?} run, and {active:?} has the lock")));
        }
        if !self.is_complete()? {
            return Ok(Some(format!("allocatable is not {DEVICES}")));
        }
        Ok(self.check_assignments().err().map(|error| format!("{error:#}")))
    }
}

//! Pure: what the kubelet is told of a device, and why.

use crate::snapshot::{DeviceView, describe};
use clap::ValueEnum;
use std::fmt;
use std::time::{Duration, Instant};
use vfio_probe::{Occupancy, Viability};

/// What to do with held devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Busy {
    // `attributed` comes here: Unhealthy only what is held and no pod owns.
    /// Every held device is Unhealthy at once
    Unhealthy,
    /// Held devices stay Healthy; allocating one is refused
    Advertise,
}

/// A device's health as the kubelet is told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// Pods may be given it.
    Healthy,
    /// They may not, because.
    Unhealthy(String),
}

/// How long a node may be missing before it counts: udev and devtmpfs take a moment.
pub(crate) const SETTLING: Duration = Duration::from_secs(3);

/// The health of a device, and when to ask again though nothing has changed.
///
/// The first row that fits: being unbound while held; held (by policy); group not viable, unless it is held, which proves
/// that it was viable; no node; unknown, which changes nothing; else Healthy.
pub(crate) fn decide(
    busy: Busy,
    view: &DeviceView,
    vfio_visible: bool,
    before: Option<&Health>,
    now: Instant,
) -> (Health, Option<Instant>) {
    let unhealthy = |reason: String| (Health::Unhealthy(reason), None);
    let Some(group) = &view.group else {
        return unhealthy("no IOMMU group: is the IOMMU off?".to_owned());
    };
    if view.unbinding {
        return unhealthy(format!("unbinding, held by {}", describe(&group.holders)));
    }
    if group.occupancy.is_held() {
        return match busy {
            Busy::Unhealthy => unhealthy(format!("held by {}", describe(&group.holders))),
            Busy::Advertise => (Health::Healthy, None),
        };
    }
    if let Viability::NotViable { member, driver } = group.viability {
        return unhealthy(format!("group {} is not viable: {member} is bound to {driver}", group.id));
    }
    match group.occupancy {
        Occupancy::Absent if vfio_visible => {
            let settled = group.since + SETTLING;
            if now >= settled {
                unhealthy(format!("no device node /dev/vfio/{}", group.id))
            } else {
                (before.cloned().unwrap_or(Health::Healthy), Some(settled))
            }
        }
        Occupancy::Unknown(_) => (before.cloned().unwrap_or(Health::Healthy), None),
        _ => (Health::Healthy, None),
    }
}

impl Health {
    /// The kubelet's word for it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => kubelet_api::HEALTHY,
            Self::Unhealthy(_) => kubelet_api::UNHEALTHY,
        }
    }

    /// Why, if it is Unhealthy.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy(reason) => Some(reason),
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unhealthy => "unhealthy",
            Self::Advertise => "advertise",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::view;
    use vfio_probe::Why;
    use vfio_probe::text::Text;

    #[test]
    fn each_row_of_the_table() {
        use Busy::{Advertise, Unhealthy};
        let now = Instant::now();
        let long_ago = now.checked_sub(SETTLING).unwrap();
        let not_viable = Viability::NotViable {
            member: Text::lossy(b"0000:3b:00.1"),
            driver: Text::lossy(b"snd_hda_intel"),
        };
        let viable = Viability::Viable;
        let unknown = Occupancy::Unknown(Why::Denied);
        let was = Health::Unhealthy("was".into());
        // policy, unbinding, occupancy, since, viability, /dev/vfio visible, before, reason or "" for Healthy
        for (busy, unbinding, occupancy, since, viability, visible, before, reason) in [
            (Unhealthy, false, Occupancy::Free, now, viable, true, None, ""),
            (Unhealthy, false, Occupancy::Free, now, viable, true, Some(&was), ""),
            (Unhealthy, false, Occupancy::Held, now, viable, true, None, "held by pid 7 (qemu)"),
            (Advertise, false, Occupancy::Held, now, viable, true, None, ""),
            (Unhealthy, true, Occupancy::Held, now, viable, true, None, "unbinding, held by pid 7 (qemu)"),
            (Advertise, true, Occupancy::Held, now, viable, true, None, "unbinding, held by pid 7 (qemu)"),
            (Unhealthy, false, Occupancy::Held, now, not_viable, true, None, "held by pid 7 (qemu)"),
            (
                Advertise,
                false,
                Occupancy::Free,
                now,
                not_viable,
                true,
                None,
                "group 51 is not viable: 0000:3b:00.1 is bound to snd_hda_intel",
            ),
            (Unhealthy, false, Occupancy::Absent, now, viable, true, None, ""),
            (
                Unhealthy,
                false,
                Occupancy::Absent,
                long_ago,
                viable,
                true,
                None,
                "no device node /dev/vfio/51",
            ),
            (Unhealthy, false, Occupancy::Absent, long_ago, viable, false, None, ""),
            (Unhealthy, false, unknown, long_ago, viable, true, None, ""),
            (Unhealthy, false, unknown, long_ago, viable, true, Some(&was), "was"),
        ] {
            let view = view("0000:3b:00.0", 51, occupancy, since, viability, unbinding);
            let (health, _) = decide(busy, &view, visible, before, now);
            assert_eq!(health.reason().unwrap_or(""), reason, "{busy} {occupancy:?} {viability:?}");
        }
    }

    #[test]
    fn a_missing_node_is_asked_for_again() {
        let now = Instant::now();
        let view = view("0000:3b:00.0", 51, Occupancy::Absent, now, Viability::Viable, false);
        assert_eq!(decide(Busy::Unhealthy, &view, true, None, now).1, Some(now + SETTLING));
    }
}

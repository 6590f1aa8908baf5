//! Prints which device nodes a VM could get now and who holds the others, then waits until a group is free:
//! `agent ROOT GROUP`.

use std::time::{Duration, UNIX_EPOCH};
use vfio_probe::device::Detail;
use vfio_probe::{GroupId, Occupancy, Root, Watch, watch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().collect();
    let [_, path, group] = words.as_slice() else { return Err("usage: agent ROOT GROUP".into()) };
    let group: GroupId = group.parse()?;
    let root = Root::open(path)?;
    for seen in &root.snapshot(Detail::Full, None)?.groups {
        match seen.occupancy {
            Occupancy::Free => {
                let nodes = root.device_nodes(seen.id)?;
                println!("group {} free: {}", seen.id, nodes.group_mode().unwrap_or_default().join(" "));
            }
            Occupancy::Held => {
                for holder in &seen.holders {
                    let started = holder.started().ok_or("no start time")?.duration_since(UNIX_EPOCH)?.as_secs();
                    let uid = holder.uid.ok_or("no uid")?;
                    print!("group {} held ({}) by {} ", seen.id, seen.evidence.as_str(), holder.pid);
                    println!("{} uid {uid} since {started}", holder.command);
                }
            }
            other => println!("group {} {}", seen.id, other.as_str()),
        }
    }
    println!("waiting for group {group}");
    let mut watch = Watch::open(&root, watch::Options::default())?;
    let is_free = watch.wait_until_free(group, Some(Duration::from_secs(30)))?;
    println!("group {group} {}", if is_free { "free" } else { "still held" });
    Ok(())
}

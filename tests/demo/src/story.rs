//! The story: one incident in three acts, and what the plugin makes of each.

use super::screen::Screen;
use super::stage::{INTERVAL, PATIENCE, Stage};
use crate::health::Busy;
use std::time::Duration;
use vfio_sim_node::kubelet::{AdmitError, Books, Capacity};
use vfio_sim_node::{Function, Vm, VmSpec};

const FOREIGN: &str = "0000:1b:00.0";
const LATE: &str = "0000:f1:00.0";
/// What a loaded machine may add to the interval; the budget itself is measured by tests/measure.
const GRACE: Duration = Duration::from_millis(500);
/// The settling time as shipped, and a little more.
const SETTLED: Duration = Duration::from_millis(3500);

/// Plays all acts.
pub(crate) async fn play(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    first_act(stage, screen).await?;
    second_act(stage, screen).await?;
    let machines = third_act(stage, screen).await?;
    as_others_do(stage, screen).await?;
    let more = one_of_two_is_taken(stage, screen).await?;
    kubelet_restarts(stage, screen).await?;
    changes(stage, screen).await?;
    drop((machines, more));
    screen.act("Curtain: SIGTERM");
    screen.promise("serve exits 0 within a second and leaves no socket behind", stage.stop_plugin());
    Ok(())
}

async fn first_act(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.act("Act 1: a GPU is held by a process that no pod knows of");
    let vm = stage.node.start_vm(&VmSpec::foreign(&[FOREIGN]))?;
    screen.tell(&format!(
        "pid {} holds {FOREIGN} before the plugin starts. Plugins that never look hand it out; QEMU",
        vm.pid()
    ));
    screen.tell("then dies of EBUSY and the pod crash-loops.");
    stage.start_plugin(Busy::Attributed).await?;
    let resource = stage.resource.clone();
    let told = stage.wait_for_health(FOREIGN, false).await.is_some();
    screen.promise(&format!("{resource}: the held GPU is listed, and Unhealthy"), told);
    let numbers = stage.kubelet.capacity(&resource);
    screen.promise("capacity stays 8, allocatable is 7", (numbers.capacity, numbers.allocatable) == (8, 7));
    let pid = vm.pid();
    let named = stage.listing().devices.iter().any(|device| {
        device.address == FOREIGN
            && device.state == "held"
            && device.holders.iter().any(|holder| holder.pid == pid)
    });
    screen.promise(&format!("its holder is named: pid {pid}"), named);
    screen.show(&stage.table());
    stage.pause(screen).await;
    let forced = stage.kubelet.admit_with("vm-forced", &resource, vec![FOREIGN.to_owned()]).await;
    let refused = match &forced {
        Err(AdmitError::Refused(status)) => {
            screen.tell(&format!(
                "A pod that is given it all the same: {:?}: {}",
                status.code(),
                status.message()
            ));
            status.message().contains(FOREIGN) && status.message().contains(&format!("pid {pid}"))
        }
        _ => false,
    };
    screen.promise("Allocate refuses it and names the holder, before QEMU would die of it", refused);
    stage.pause(screen).await;

    screen.act("Act 2: the holder goes");
    vm.kill();
    let took = stage.wait_for_health(FOREIGN, true).await;
    let words = took.map_or("never".to_owned(), |took| format!("after {} ms", took.as_millis()));
    let in_time = took.is_some_and(|took| took <= INTERVAL + GRACE);
    screen.promise(&format!("the GPU is Healthy again by itself ({words}; the interval is 1 s)"), in_time);
    Ok(())
}

async fn second_act(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    let resource = stage.resource.clone();
    let pod = stage.kubelet.admit("vm-0", &resource, 2).await;
    let Ok(pod) = pod else {
        screen.promise("a pod with two GPUs is admitted", false);
        return Ok(());
    };
    let env: Vec<String> = pod.response.envs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let nodes: Vec<&str> = pod.response.devices.iter().map(|spec| spec.host_path.as_str()).collect();
    screen.tell(&format!("A pod with two GPUs is admitted: {}", env.join(" ")));
    screen.tell(&format!("and is given {}", nodes.join(" ")));
    let listing = stage.listing();
    let node_of =
        |id: &String| listing.devices.iter().find(|device| device.address == *id).and_then(|d| d.numa_node);
    let nodes: Vec<_> = pod.devices.iter().map(node_of).collect();
    let together = nodes.windows(2).all(|pair| pair.first() == pair.last()) && nodes.len() == 2;
    screen.promise("both GPUs are of one NUMA node", together);
    let vm = stage.node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices));
    screen.promise("its machine opens both groups", vm.is_ok());
    stage.pause(screen).await;
    drop(vm);
    stage.kubelet.remove(&pod.pod_uid);
    let free = stage.wait(|books| books.capacity(&resource).allocatable == 8).await.is_ok();
    screen.promise("when the machine has gone, all 8 are allocatable", free);
    Ok(())
}

async fn third_act(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Vec<Vm>> {
    screen.act("Act 3: six machines run, and two GPUs are free");
    let mut machines = Vec::new();
    for number in 1..=6 {
        machines.extend(run_pod(stage, screen, &format!("vm-{number}")).await?);
    }
    let promised = stage.kubelet.capacity(&stage.resource);
    screen.promise("all six were placed, and their machines have opened their groups", machines.len() == 6);
    screen.promise("8 allocatable - 6 requested = 2 free", left(promised) == (8, 8, 2));
    // Were they Unhealthy for being held, they were so by now.
    tokio::time::sleep(SETTLED).await;
    let later = stage.kubelet.capacity(&stage.resource);
    screen.show(&stage.table());
    screen
        .promise("and so it stays: they are their pods', and held by nobody else", left(later) == (8, 8, 2));
    stage.pause(screen).await;
    stage.kill_plugin();
    stage.start_plugin(Busy::Attributed).await?;
    tokio::time::sleep(SETTLED).await;
    let again = stage.kubelet.capacity(&stage.resource);
    screen.promise("the plugin is killed and starts anew: still 2 free", left(again) == (8, 8, 2));
    Ok(machines)
}

async fn as_others_do(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.act("The same six machines with --busy unhealthy, as others tell it");
    screen.promise("serve ends when asked to", stage.stop_plugin());
    stage.start_plugin(Busy::Unhealthy).await?;
    let resource = stage.resource.clone();
    let seen = stage.wait(|books| books.capacity(&resource).allocatable == 2).await.is_ok();
    screen.show(&stage.table());
    let numbers = stage.kubelet.capacity(&resource);
    screen.promise(
        "2 allocatable - 6 requested = -4: every held device is Unhealthy",
        seen && numbers.left() == -4,
    );
    let waits = stage.kubelet.admit("vm-kept-out", &resource, 1).await;
    screen.promise("a pod waits, though 2 GPUs are free", matches!(waits, Err(AdmitError::Unschedulable(_))));
    stage.pause(screen).await;
    stage.stop_plugin();
    stage.start_plugin(Busy::Attributed).await?;
    let back = stage.wait(|books| books.capacity(&resource).allocatable == 8).await.is_ok();
    screen.promise("with attributed 2 are free again", back && stage.kubelet.capacity(&resource).left() == 2);
    Ok(())
}

async fn one_of_two_is_taken(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Vec<Vm>> {
    screen.act("A process without a pod takes one of the two");
    let resource = stage.resource.clone();
    let free = stage.listing().devices.into_iter().find(|device| device.state == "free");
    let free = free.map(|device| device.address).unwrap_or_default();
    let vm = stage.node.start_vm(&VmSpec::foreign(&[&free]))?;
    let told = stage.wait(|books| books.capacity(&resource).allocatable == 7).await.is_ok();
    screen.promise("7 allocatable - 6 requested = 1 free", told);
    screen.show(&stage.table());
    let mut machines: Vec<Vm> = run_pod(stage, screen, "vm-7").await?.into_iter().collect();
    let waits = stage.kubelet.admit("vm-8", &resource, 1).await;
    let waits = matches!(waits, Err(AdmitError::Unschedulable(_)));
    screen.promise("one pod is placed, the next one waits", machines.len() == 1 && waits);
    stage.pause(screen).await;
    vm.kill();
    let took = stage.wait_for_health(&free, true).await;
    screen.promise("the process ends, and its GPU is offered again", took.is_some());
    machines.extend(run_pod(stage, screen, "vm-8").await?);
    screen.promise("the pod that waited is placed, and its machine runs", machines.len() == 2);
    Ok(machines)
}

/// A pod with one GPU and its machine, if the scheduler and the kubelet let it.
async fn run_pod(stage: &Stage, screen: &mut Screen, name: &str) -> anyhow::Result<Option<Vm>> {
    match stage.kubelet.admit(name, &stage.resource, 1).await {
        Ok(pod) => Ok(Some(stage.node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices))?)),
        Err(error) => {
            screen.tell(&format!("{name} was kept waiting: {error}."));
            Ok(None)
        }
    }
}

/// Capacity, allocatable, and what the scheduler sees as free.
fn left(numbers: Capacity) -> (usize, usize, i64) {
    (numbers.capacity, numbers.allocatable, numbers.left())
}

async fn kubelet_restarts(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.act("The kubelet restarts");
    let resource = stage.resource.clone();
    let before = stage.kubelet.books().registrations_of(&resource);
    stage.kubelet.restart(true).await?;
    let again = |books: &Books| {
        books.registrations_of(&resource) > before && books.capacity(&resource).allocatable == 8
    };
    let back = stage.wait(again).await.is_ok();
    screen.promise("the plugin has registered again, and its list is as before", back);
    stage.pause(screen).await;
    Ok(())
}

async fn changes(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.act("Devices come and go without a restart");
    let resource = stage.resource.clone();
    stage.node.add(Function::gpu(LATE, 90, 1))?;
    let came = stage.wait_for_health(LATE, true).await.is_some();
    screen.promise("a GPU that is bound now is offered", came);
    let model = Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0);
    stage.node.add(model)?;
    let fresh = stage.wait(|books| books.resources.len() == 2).await.is_ok();
    screen.promise("a model that was not there at the start is a new resource", fresh);
    stage.node.unbind(LATE)?;
    let gone =
        |books: &Books| books.resources.get(&resource).is_some_and(|known| known.health(LATE).is_none());
    let went = tokio::time::timeout(PATIENCE, stage.wait(gone)).await.is_ok_and(|books| books.is_ok());
    screen.promise("a GPU that is unbound goes from the list", went);
    screen.show(&stage.table());
    stage.pause(screen).await;
    Ok(())
}

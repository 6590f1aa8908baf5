//! Plays the scenarios: the production incident that the plugin was made for, and what the plugin does in each of its steps.

use crate::screen::Screen;
use crate::stage::{INTERVAL, PATIENCE, Stage};
use std::collections::BTreeSet;
use std::time::Duration;
use vfio_sim_node::kubelet::{AdmitError, Capacity, KubeletState};
use vfio_sim_node::{Function, Vm, VmSpec};

/// The GPU that a process without a pod holds at the start.
const FOREIGN: &str = "0000:1b:00.0";
/// The GPU that is bound while the plugin runs.
const LATE: &str = "0000:f1:00.0";
/// Added to the interval for a loaded host. tests/measure measures the time without it.
const GRACE: Duration = Duration::from_millis(500);
/// The default settling time, and half a second more.
const SETTLED: Duration = Duration::from_millis(3500);
/// The policies of `--busy`.
const ATTRIBUTED: &str = "attributed";
const UNHEALTHY: &str = "unhealthy";

/// Plays all scenarios in order. Each starts from the state that the previous one leaves.
///
/// # Errors
/// The demo cannot go on: the plugin does not start, or its `list` fails.
pub(crate) async fn play(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    let holder = foreign_holder_is_named(stage, screen).await?;
    freed_gpu_comes_back(stage, screen, holder).await?;
    pod_with_two_gpus(stage, screen).await?;
    let vms = six_pods(stage, screen).await?;
    policy_unhealthy(stage, screen).await?;
    let more = one_of_two_is_taken(stage, screen).await?;
    kubelet_restarts(stage, screen).await?;
    devices_change(stage, screen).await?;
    drop((vms, more));
    screen.heading("SIGTERM");
    screen.check("serve exits with 0 within a second and leaves no socket behind", stage.stop_plugin());
    Ok(())
}

/// Returns the VM that holds [`FOREIGN`] and belongs to no pod.
async fn foreign_holder_is_named(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Vm> {
    screen.heading("Act 1: a process without a pod holds a GPU");
    let vm = stage.node.start_vm(&VmSpec::foreign(&[FOREIGN]))?;
    let pid = vm.pid();
    screen.say(&format!(
        "Process {pid} holds {FOREIGN} before the plugin starts. A plugin that does not check"
    ));
    screen.say("allocates the GPU. QEMU then fails with EBUSY and the pod crash-loops.");
    stage.start_plugin(ATTRIBUTED).await?;
    let resource = stage.resource.clone();
    let unhealthy = stage.wait_for_health(FOREIGN, false).await.is_some();
    screen.check(&format!("{resource}: the held GPU is listed as Unhealthy"), unhealthy);
    let numbers = stage.kubelet.capacity(&resource);
    screen.check("capacity stays 8, allocatable is 7", (numbers.capacity, numbers.allocatable) == (8, 7));
    let named = stage.devices()?.iter().any(|device| {
        device.address == FOREIGN
            && device.state == "held"
            && device.holders.iter().any(|holder| holder.pid == pid)
    });
    screen.check(&format!("list names the holder: pid {pid}"), named);
    screen.show(&stage.table(screen.columns())?);
    stage.pause(screen).await?;
    let forced = stage.kubelet.admit_with("vm-forced", &resource, vec![FOREIGN.to_owned()]).await;
    let refused = match &forced {
        Err(AdmitError::Refused(status)) => {
            screen.say(&format!(
                "Allocate for a pod that asks for {FOREIGN}: {:?}: {}",
                status.code(),
                status.message()
            ));
            status.message().contains(FOREIGN) && status.message().contains(&format!("pid {pid}"))
        }
        _ => false,
    };
    screen.check("Allocate refuses the held GPU and names the holder, before QEMU can fail", refused);
    stage.pause(screen).await?;
    Ok(vm)
}

/// Kills the holder of [`FOREIGN`].
async fn freed_gpu_comes_back(stage: &mut Stage, screen: &mut Screen, holder: Vm) -> anyhow::Result<()> {
    screen.heading("Act 2: the holder exits");
    holder.kill();
    let took = stage.wait_for_health(FOREIGN, true).await;
    let after = took.map_or("never".to_owned(), |took| format!("after {} ms", took.as_millis()));
    let in_time = took.is_some_and(|took| took <= INTERVAL + GRACE);
    screen.check(
        &format!("the GPU is Healthy again without a restart ({after}; the interval is 1 s)"),
        in_time,
    );
    Ok(())
}

async fn pod_with_two_gpus(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    let resource = stage.resource.clone();
    let pod = stage.kubelet.admit("vm-0", &resource, 2).await;
    let Ok(pod) = pod else {
        screen.check("a pod with two GPUs is admitted", false);
        return Ok(());
    };
    let env: Vec<String> = pod.response.envs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let nodes: Vec<&str> = pod.response.devices.iter().map(|spec| spec.host_path.as_str()).collect();
    screen.say(&format!("A pod with two GPUs is admitted. Its environment: {}", env.join(" ")));
    screen.say(&format!("Its device nodes: {}", nodes.join(" ")));
    let devices = stage.devices()?;
    let numa_node =
        |id: &String| devices.iter().find(|device| device.address == *id).and_then(|found| found.numa_node);
    let numa_nodes: Vec<_> = pod.devices.iter().map(numa_node).collect();
    let same = numa_nodes.windows(2).all(|pair| pair.first() == pair.last()) && numa_nodes.len() == 2;
    screen.check("both GPUs are on the same NUMA node", same);
    let vm = stage.node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices));
    screen.check("the pod's VM opens both groups", vm.is_ok());
    stage.pause(screen).await?;
    drop(vm);
    stage.kubelet.remove(&pod.pod_uid);
    let free = stage.wait(|state| state.capacity(&resource).allocatable == 8).await.is_ok();
    screen.check("all 8 GPUs are allocatable after the VM and its pod have ended", free);
    Ok(())
}

/// Returns the VMs of six pods, which run on.
async fn six_pods(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Vec<Vm>> {
    screen.heading("Act 3: six VMs run, and two GPUs are free");
    let mut vms = Vec::new();
    for number in 1..=6 {
        vms.extend(run_pod(stage, screen, &format!("vm-{number}")).await?);
    }
    let numbers = stage.kubelet.capacity(&stage.resource);
    screen.check("all six pods are admitted, and their VMs have opened their groups", vms.len() == 6);
    screen.check("8 allocatable - 6 requested = 2 free", summary(numbers) == (8, 8, 2));
    // A GPU that is Unhealthy because it is held would be so by now.
    tokio::time::sleep(SETTLED).await;
    let later = stage.kubelet.capacity(&stage.resource);
    screen.check(
        "this does not change after the settling time: pods hold their own GPUs",
        summary(later) == (8, 8, 2),
    );
    let assigned = stage
        .wait_for_devices(|devices| {
            let pods = devices.iter().filter_map(|device| device.assignment.as_ref()?.pod.as_deref());
            let wanted = (1..=6).map(|number| format!("vm-{number}"));
            pods.map(str::to_owned).collect::<BTreeSet<_>>() == wanted.collect()
        })
        .await?;
    screen.check("list shows the pods that the six GPUs are assigned to", assigned);
    screen.show(&stage.table(screen.columns())?);
    stage.pause(screen).await?;
    stage.kill_plugin();
    stage.start_plugin(ATTRIBUTED).await?;
    tokio::time::sleep(SETTLED).await;
    let again = stage.kubelet.capacity(&stage.resource);
    screen.check("the plugin is killed and starts again: still 2 free", summary(again) == (8, 8, 2));
    Ok(vms)
}

async fn policy_unhealthy(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("The same six VMs with --busy unhealthy, as other plugins report them");
    screen.check("serve exits after SIGTERM", stage.stop_plugin());
    stage.start_plugin(UNHEALTHY).await?;
    let resource = stage.resource.clone();
    let reported = stage.wait(|state| state.capacity(&resource).allocatable == 2).await.is_ok();
    screen.show(&stage.table(screen.columns())?);
    let numbers = stage.kubelet.capacity(&resource);
    screen.check(
        "2 allocatable - 6 requested = -4: every held GPU is Unhealthy",
        reported && numbers.left() == -4,
    );
    let pending = stage.kubelet.admit("vm-pending", &resource, 1).await;
    screen.check(
        "a pod stays pending, although 2 GPUs are free",
        matches!(pending, Err(AdmitError::Unschedulable(_))),
    );
    stage.pause(screen).await?;
    stage.stop_plugin();
    stage.start_plugin(ATTRIBUTED).await?;
    let back = stage.wait(|state| state.capacity(&resource).allocatable == 8).await.is_ok();
    let free = stage.kubelet.capacity(&resource).left();
    screen.check("with --busy attributed, 2 are free again", back && free == 2);
    Ok(())
}

/// Returns the VMs of two more pods, which run on.
async fn one_of_two_is_taken(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Vec<Vm>> {
    screen.heading("A process without a pod takes one of the two free GPUs");
    let resource = stage.resource.clone();
    let free = stage.devices()?.into_iter().find(|device| device.state == "free");
    let free = free.map(|device| device.address).unwrap_or_default();
    let vm = stage.node.start_vm(&VmSpec::foreign(&[&free]))?;
    let reported = stage.wait(|state| state.capacity(&resource).allocatable == 7).await.is_ok();
    screen.check("7 allocatable - 6 requested = 1 free", reported);
    screen.show(&stage.table(screen.columns())?);
    let mut vms: Vec<Vm> = run_pod(stage, screen, "vm-7").await?.into_iter().collect();
    let pending = stage.kubelet.admit("vm-8", &resource, 1).await;
    let pending = matches!(pending, Err(AdmitError::Unschedulable(_)));
    screen.check("one pod is admitted, the next one stays pending", vms.len() == 1 && pending);
    stage.pause(screen).await?;
    vm.kill();
    let took = stage.wait_for_health(&free, true).await;
    screen.check("the process exits, and its GPU is Healthy again", took.is_some());
    vms.extend(run_pod(stage, screen, "vm-8").await?);
    screen.check("the pending pod is admitted, and its VM runs", vms.len() == 2);
    Ok(vms)
}

/// Admits a pod with one GPU and starts its VM. Returns `None` if the scheduler, the kubelet or the plugin refuses the pod.
async fn run_pod(stage: &Stage, screen: &mut Screen, name: &str) -> anyhow::Result<Option<Vm>> {
    match stage.kubelet.admit(name, &stage.resource, 1).await {
        Ok(pod) => Ok(Some(stage.node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices))?)),
        Err(error) => {
            screen.say(&format!("{name} is not admitted: {error}."));
            Ok(None)
        }
    }
}

/// Returns capacity, allocatable, and the number that the scheduler sees as free.
fn summary(numbers: Capacity) -> (usize, usize, i64) {
    (numbers.capacity, numbers.allocatable, numbers.left())
}

async fn kubelet_restarts(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("The kubelet restarts");
    let resource = stage.resource.clone();
    let before = stage.kubelet.state().registrations_of(&resource);
    stage.kubelet.restart(true).await?;
    let again = |state: &KubeletState| {
        state.registrations_of(&resource) > before && state.capacity(&resource).allocatable == 8
    };
    let back = stage.wait(again).await.is_ok();
    screen.check("the plugin registers again, and its list is as before", back);
    stage.pause(screen).await?;
    Ok(())
}

async fn devices_change(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("GPUs are bound and unbound while the plugin runs");
    let resource = stage.resource.clone();
    stage.node.add(Function::gpu(LATE, 90, 1))?;
    let listed = stage.wait_for_health(LATE, true).await.is_some();
    screen.check("a GPU that is bound now is listed as Healthy", listed);
    let model = Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0);
    stage.node.add(model)?;
    let registered = stage.wait(|state| state.resources.len() == 2).await.is_ok();
    screen.check("a GPU of another model is registered as a new resource", registered);
    stage.node.unbind(LATE)?;
    let dropped = |state: &KubeletState| {
        state.resources.get(&resource).is_some_and(|known| known.health(LATE).is_none())
    };
    let dropped = tokio::time::timeout(PATIENCE, stage.wait(dropped)).await.is_ok_and(|state| state.is_ok());
    screen.check("a GPU that is unbound leaves the list", dropped);
    screen.show(&stage.table(screen.columns())?);
    stage.pause(screen).await?;
    Ok(())
}

//! `demo`: the product's story on a simulated node, told by the real plugin and a stand-in for the kubelet.

mod screen;
mod stage;
mod story;

use anyhow::Context;
use screen::Screen;
use stage::Stage;
use std::io::IsTerminal;

/// Plays the story: once as plain text, or as a live table where there is a terminal. 0 if every promise held.
pub(crate) fn run(once: bool) -> anyhow::Result<u8> {
    // Before any thread starts: capabilities are per thread, and with CAP_SYS_ADMIN the node's EBUSY does not bite.
    vfio_sim_node::drop_sys_admin().context("cannot give up CAP_SYS_ADMIN")?;
    let live = !once && std::io::stdout().is_terminal();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let broken = runtime.block_on(async {
        let mut screen = Screen::new(live);
        let mut stage = Stage::set().await?;
        story::play(&mut stage, &mut screen).await?;
        anyhow::Ok(screen.finish())
    })?;
    Ok(u8::from(broken > 0))
}

/// A virtual machine of the demo: a process that stays until it is killed.
pub(crate) fn machine() -> anyhow::Result<u8> {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

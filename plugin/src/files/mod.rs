//! Opens, replaces and moves files whose directory another program or user may have prepared.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`mod@read`] | reads a regular file of bounded size, and never waits |
//! | [`mod@replace`] | replaces a file in one step, and removes what a killed process left of that |
//! | [`aside`] | keeps a file that cannot be used, under another name |
//! | [`directory`] | creates directories with explicit modes |
//! | [`socket`] | binds sockets with explicit modes |
//! | [`late`] | waits only for a time for work that can hang |
//!
//! Nothing here changes the content or the mode of a link's target.

mod aside;
mod directory;
mod late;
mod read;
mod replace;
mod socket;

pub(crate) use aside::{is_kept_aside, set_aside};
pub(crate) use directory::{create_directories, names};
pub(crate) use late::{Waited, within};
pub(crate) use read::{Links, open, read, read_all};
pub(crate) use replace::{is_on_disk, remove_leftovers, replace, replace_on};
pub(crate) use socket::bind_private;

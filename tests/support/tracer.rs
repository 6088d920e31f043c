//! strace on a running proxy.

use std::path::PathBuf;
use std::process::{Child, Command};

use super::proxy::{Proxy, empty_folder};
use super::{eventually, skip};

/// Follows the proxy's system calls; ended when dropped.
pub struct Tracer {
    child: Child,
    folder: PathBuf,
}

impl Tracer {
    /// Follows those of some names (separated by commas), with a fault where one is named. None, with a word on why, where
    /// it isn't allowed to.
    pub fn attach(proxy: &Proxy, calls: &str, fault: Option<&str>) -> Option<Self> {
        let folder = empty_folder();
        let said = std::fs::File::create(folder.join("said")).expect("writable");
        let mut command = Command::new("strace");
        command.args(["-f", "-e", &format!("trace={calls}"), "-o", "calls", "-p", &proxy.program.pid().to_string()]);
        if let Some(fault) = fault {
            command.args(["-e", &format!("inject={fault}")]);
        }
        let child = command.current_dir(&folder).stderr(said).spawn().expect("strace runs (./x test installs it)");
        let tracer = Self { child, folder };
        let mut said = String::new();
        eventually("strace is attached", || {
            said = tracer.read("said");
            said.contains(" attached") || said.contains("not permitted")
        });
        if said.contains("not permitted") {
            skip(&said);
            return None;
        }
        Some(tracer)
    }

    /// The calls so far, one a line.
    pub fn calls(&self) -> String {
        self.read("calls")
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).expect("strace writes it")
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

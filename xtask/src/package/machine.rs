//! A container: Debian in a folder, in namespaces, with systemd as its first process and no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{output, run_program};

/// Packages besides Debian's essential ones that the package and its tests need.
const PACKAGES: &str = "adduser,ca-certificates,dbus,iproute2,procps,sqlite3,systemd,systemd-sysv";

/// Time limit for booting.
const BOOT: Duration = Duration::from_secs(120);

/// Moves this process into its own cgroup, so that systemd does not manage the surrounding ones.
const SEPARATE: &str = r#"
for groups in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    if [ -e "$groups/cgroup.procs" ]; then
        mkdir -p "$groups/nara-mesh-machine"
        echo $$ > "$groups/nara-mesh-machine/cgroup.procs"
    fi
done
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child /bin/sh -euc "$0" "$1"
"#;

/// Runs in the new namespaces: prepares what a first process expects, and starts systemd.
const BOOT_SCRIPT: &str = r#"
root=$0
unified=$(stat --file-system --format %T /sys/fs/cgroup)
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
if [ "$unified" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs cgroup "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified" || true
fi
# No chroot: inside one, user namespaces cannot be created.
cd "$root"
pivot_root . .
umount --lazy .
# systemd passes credentials on by mounts.
mount --make-rshared /
exec /usr/bin/env -i container=nara-mesh PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"#;

/// A running container, until dropped.
pub(super) struct Machine {
    child: Child,
    root: PathBuf,
    /// Its first process, by its pid outside.
    first: String,
}

impl Machine {
    /// Creates a container below a folder and boots it. Reuses packages downloaded earlier.
    pub(super) fn start(folder: &Path) -> Result<Self, String> {
        let (archive, root) = (folder.join("root.tar"), folder.join("root"));
        let (listed, packages) = (folder.join("root.packages"), format!("{} {PACKAGES}", release()));
        if !archive.exists() || fs::read_to_string(&listed).unwrap_or_default() != packages {
            let unfinished = folder.join("root.tar.new");
            let mut mmdebstrap = Command::new("mmdebstrap");
            mmdebstrap.args(["--quiet", "--format=tar", "--variant=minbase"]);
            mmdebstrap.arg(format!("--include={PACKAGES}")).arg(release());
            run_program(mmdebstrap.arg(&unfinished))?;
            fs::rename(&unfinished, &archive).map_err(|error| format!("{}: {error}", archive.display()))?;
            fs::write(&listed, packages).map_err(|error| format!("{}: {error}", listed.display()))?;
        }
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let mut tar = Command::new("tar");
        run_program(
            tar.arg("--extract")
                .arg("--file")
                .arg(&archive)
                .arg("--directory")
                .arg(&root),
        )?;
        let log = fs::File::create(folder.join("boot.log")).map_err(|error| format!("boot.log: {error}"))?;
        let child = Command::new("/bin/sh")
            .args(["-euc", SEPARATE, BOOT_SCRIPT])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut machine = Self {
            child,
            root,
            first: String::new(),
        };
        machine.wait_for_boot().map_err(|error| {
            format!(
                "the machine does not boot ({error}); it needs root and writable cgroups; see {}",
                folder.join("boot.log").display()
            )
        })?;
        Ok(machine)
    }

    fn wait_for_boot(&mut self) -> Result<(), String> {
        let until = Instant::now() + BOOT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(status.to_string());
            }
            let id = self.child.id();
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            self.first = children.trim().to_owned();
            let state = if self.first.is_empty() {
                "no first process".to_owned()
            } else {
                let mut state = self.inside("systemctl is-system-running");
                let state = state
                    .stderr(Stdio::null())
                    .output()
                    .map_err(|error| error.to_string())?;
                String::from_utf8_lossy(&state.stdout).trim().to_owned()
            };
            if ["running", "degraded"].contains(&&*state) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("its state is {state:?}"));
            }
            sleep(Duration::from_millis(200));
        }
    }

    /// Copies a file into the home folder of root.
    pub(super) fn copy(&self, file: &Path, name: &str) -> Result<(), String> {
        let to = self.root.join("root").join(name);
        fs::copy(file, &to)
            .map(drop)
            .map_err(|error| format!("{} to {}: {error}", file.display(), to.display()))
    }

    /// Writes a file into the home folder of root.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let to = self.root.join("root").join(name);
        fs::write(&to, text).map_err(|error| format!("{}: {error}", to.display()))
    }

    /// Runs a shell command as root, and returns its standard output.
    pub(super) fn run(&self, command: &str) -> Result<String, String> {
        output(&mut self.inside(command)).map_err(|error| {
            let mut journal = self.inside("journalctl --no-pager --lines 40");
            let journal = output(&mut journal).unwrap_or_default();
            format!("{error}\nthe journal ends with:\n{journal}")
        })
    }

    fn inside(&self, command: &str) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.first, "--all", "--root", "--wd"]);
        inside.args([
            "/usr/bin/env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
        ]);
        inside.args(["DEBIAN_FRONTEND=noninteractive", "/bin/sh", "-euc", command]);
        inside
    }
}

/// Returns the Debian release of this machine: another release may have an older C library than the program
/// was linked with.
fn release() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or("stable").to_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process ends with this one, and all others with the first.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let script = "sleep 1; find /sys/fs/cgroup/*/nara-mesh-machine /sys/fs/cgroup/nara-mesh-machine -depth -type d \
                      -exec rmdir {} + 2>/dev/null";
        let _ = Command::new("/bin/sh").args(["-c", script]).status();
    }
}

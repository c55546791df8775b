//! Real ext4 file systems on loop devices: small ones, and ones that lose power. They need root.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// An ext4 file system in a file.
pub struct Ext4 {
    dir: tempfile::TempDir,
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}; this test needs root and loop devices");
}

impl Ext4 {
    /// Makes one of so many bytes, and mounts it.
    #[track_caller]
    pub fn new(bytes: u64) -> Self {
        let disk = Self { dir: tempfile::tempdir().expect("a directory") };
        std::fs::File::create(disk.image()).and_then(|image| image.set_len(bytes)).expect("an image");
        std::fs::create_dir(disk.path()).expect("a directory");
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    #[track_caller]
    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()));
    }

    /// Cuts the power: what is not synced is gone, and nothing is written any more. `file`: any file on it.
    #[track_caller]
    pub fn cut(&self, file: &Path) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (linux/fs/ext4/ext4.h).
        let script = r#"open(F, "<", $ARGV[0]) or die "open: $!"; my $flags = pack("L", 2); ioctl(F, 0x8004587d, $flags) or die "ioctl: $!""#;
        run(Command::new("perl").args(["-e", script]).arg(file));
    }

    /// The power comes back: mounts it again, with what was on disk. Nobody may have a file of it open.
    #[track_caller]
    pub fn restore(&self) {
        run(Command::new("umount").arg(self.path()));
        self.mount();
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

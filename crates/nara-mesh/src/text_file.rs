//! Text files of users, read as a whole.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Reads a file of at most `most` bytes. A pipe or a device may have no end, or no writer: it is refused, unless the
/// process was started with it (`/dev/fd/3`).
pub(crate) fn read(path: &Path, most: u64) -> io::Result<String> {
    let kind = fs::metadata(path)?;
    if !kind.is_file() && !kind.is_dir() && !is_passed_on(path) {
        let reason = "it is a pipe or a device, not a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    read_open(File::open(path)?, most)
}

/// Reads an open file, which may be a pipe.
pub(crate) fn read_open(file: File, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let reason = format!("it is larger than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("line {line} is not UTF-8 text"),
        )
    })
}

/// Returns whether a path names a descriptor of this process: the parent process holds the other end.
pub(crate) fn is_passed_on(path: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd", "/dev/stdin"]
        .iter()
        .any(|descriptors| path.starts_with(descriptors))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn pipes_devices_and_oversized_files_are_refused() {
        let read_zeros = read(Path::new("/dev/zero"), 10).unwrap_err();
        assert_eq!(read_zeros.kind(), io::ErrorKind::InvalidInput);
        let endless = read_open(File::open("/dev/zero").unwrap(), 10).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), "0123456789");
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::write(&path, b"one\ntwo \xff\n").unwrap();
        assert_eq!(
            read(&path, 100).unwrap_err().to_string(),
            "line 2 is not UTF-8 text"
        );
    }
}

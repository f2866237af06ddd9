//! Certificates: made once however many processes start, private, and each for one role.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use carillon_link::tls::{Identity, Role, TlsError, ensure_development};

/// Processes that start together end with the same files, of which each is whole, and no drafts stay behind.
#[test]
fn racing_first_starts_end_with_the_same_certificates() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data/tls");
    let read = || {
        ensure_development(&directory).unwrap();
        for role in [Role::Router, Role::Gateway] {
            Identity::load(&directory, role).unwrap();
        }
        ["ca.pem", "ca.key", "router.pem", "router.key", "gateway.pem", "gateway.key"]
            .map(|file| fs::read(directory.join(file)).unwrap())
    };
    let first = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6).map(|_| scope.spawn(read)).collect();
        let mut seen = starts.into_iter().map(|start| start.join().unwrap());
        let first = seen.next().unwrap();
        assert!(seen.all(|files| files == first));
        first
    });
    assert_eq!(read(), first, "a later start changes nothing");
    assert_eq!(fs::read_dir(parent.path().join("data")).unwrap().count(), 1);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(directory.join("router.key")), mode(directory.clone())), (0o600, 0o700));
}

/// What an operator may have got wrong is told with the file's name, and never mended by making new
/// certificates.
#[test]
fn wrong_certificates_are_told() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("tls");
    assert!(matches!(Identity::load(&directory, Role::Router), Err(TlsError::File { .. })));
    ensure_development(&directory).unwrap();

    fs::copy(directory.join("gateway.pem"), directory.join("router.pem")).unwrap();
    let told = Identity::load(&directory, Role::Router).err().unwrap();
    assert!(matches!(told, TlsError::Role { .. }), "{told}");
    assert!(told.to_string().contains("router.pem"));

    fs::copy(directory.join("router.key"), directory.join("gateway.key")).unwrap();
    let told = Identity::load(&directory, Role::Gateway).err().unwrap();
    assert!(matches!(told, TlsError::Configuration(_)), "{told}");

    fs::write(directory.join("gateway.key"), "no key").unwrap();
    let told = Identity::load(&directory, Role::Gateway).err().unwrap();
    assert!(matches!(told, TlsError::Content { .. }), "{told}");

    let other = parent.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes"), "mine").unwrap();
    assert!(matches!(ensure_development(&other), Err(TlsError::File { .. })));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "no drafts");
}

//! What the tree is made of: where `unsafe` may stand, and that each crate is held to the workspace's rules.

#![expect(clippy::disallowed_methods, reason = "tests read files")]

use std::path::Path;

use carillon_tests::features::scan;

/// Where `unsafe` may stand; ARCHITECTURE.md names each.
const UNSAFE: [&str; 8] = [
    "benches/engines/",
    "gateway/src/io/monoio.rs",
    "gateway/src/io/uring/ring.rs",
    "gateway/src/io/uring/ring/pool.rs",
    "gateway/tests/memory/",
    "loadgen/src/io/carrier/uring/",
    "store/src/backend/fdb/network.rs",
    "tests/src/campaigns/disk/ground.rs",
];

/// One use of the keyword that asks for a reason.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    line: usize,
    has_reason: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// What of a line is code: nothing between quotes, nothing behind `//`.
fn code(line: &str) -> String {
    let line = line.replace("\\\"", "");
    let outside: Vec<&str> = line.split('"').step_by(2).collect();
    let code = outside.join("\"\"");
    code.split("//").next().unwrap_or_default().to_owned()
}

/// The keyword in a text, but for functions that are declared `unsafe`: what they do needs a block of its own.
fn uses(text: &str) -> Vec<Use> {
    let lines: Vec<&str> = text.lines().collect();
    let mut uses = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = code(line);
        let words: Vec<&str> = code.split(|char: char| !char.is_alphanumeric() && char != '_').collect();
        let stands = words.windows(2).any(|pair| pair[0] == "unsafe" && pair[1] != "fn")
            || words.last() == Some(&"unsafe");
        if stands {
            // The comment right above, however many lines it has.
            let above = lines[..index].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
            let has_reason = above.into_iter().any(|line| line.trim_start().starts_with("// SAFETY:"));
            uses.push(Use { line: index + 1, has_reason });
        }
    }
    uses
}

/// Nothing is unsafe outside of a few files, and there each block says what makes it sound.
#[test]
fn unsafe_stands_in_its_files_with_its_reasons() {
    let sources = scan::workspace(root()).expect("the sources");
    assert!(sources.files.len() > 300, "the sources were found");
    let (mut wrong, mut unused) = (Vec::new(), UNSAFE.to_vec());
    for (path, text) in &sources.files {
        for Use { line, has_reason } in uses(text) {
            match UNSAFE.iter().find(|named| path.starts_with(**named)) {
                None => wrong.push(format!("{path}:{line}: not a file for it")),
                Some(_) if !has_reason => wrong.push(format!("{path}:{line}: no SAFETY comment above")),
                Some(named) => unused.retain(|name| name != named),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unused.is_empty(), "not needed any more: {unused:?}");
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for named in UNSAFE {
        assert!(architecture.contains(&format!("`{named}`")), "ARCHITECTURE.md does not name {named}");
    }
}

/// Every crate of the workspace takes the workspace's lints, which deny `unsafe`.
#[test]
fn every_crate_is_held_to_the_lints() {
    let manifest = |path: &Path| std::fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
    let workspace = manifest(root());
    assert!(workspace.contains("unsafe_code = \"deny\""));
    let (_, members) = workspace.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("their end");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 9, "{members:?}");
    for member in members {
        assert!(manifest(&root().join(member)).contains("[lints]\nworkspace = true"), "{member}");
    }
}

/// The check itself sees what it is for.
#[test]
fn the_keyword_is_found_and_its_reason() {
    let seen = |text: &str| uses(text).iter().map(|found| (found.line, found.has_reason)).collect::<Vec<_>>();
    assert_eq!(seen("let x = unsafe { y };"), [(1, false)]);
    assert_eq!(seen("// SAFETY: because.\n// Really.\nlet x = unsafe { y };"), [(3, true)]);
    assert_eq!(seen("// SAFETY: because.\nlet z = 1;\nlet x = unsafe { y };"), [(3, false)]);
    assert_eq!(seen("unsafe\n{ y }\nunsafe impl Send for X {}"), [(1, false), (3, false)]);
    assert_eq!(seen("// unsafe { }\nlet x = \"unsafe { }\";\n#![deny(unsafe_code)]\nunsafe fn f() {}"), []);
}

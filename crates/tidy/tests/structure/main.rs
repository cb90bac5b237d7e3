//! The structure of the workspace: no circles of imports, no crate too large to read.
//!
//! That crates import downwards only, Cargo sees to: it knows no circles of crates.

#![allow(clippy::unwrap_used)]

mod imports;

use imports::{Module, Modules};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Most lines of a crate's source; its tests do not count.
const MAX_LINES: usize = 10_000;

/// The folders of all crates.
fn crates() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<PathBuf> = all.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("Cargo.toml").exists());
    folders.sort();
    folders
}

fn text(module: &Module) -> String {
    if module.is_empty() { "lib".into() } else { module.join("::") }
}

/// Imports between modules of one folder, each with all below it. A module and what lies in its folder are one thing, which
/// its users see as a whole: imports between them are left out.
fn siblings(imports: &BTreeSet<(Module, Module)>) -> BTreeSet<(Module, Module)> {
    let lifted = imports.iter().filter_map(|(from, to)| {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        let is_apart = from.len() > common && to.len() > common;
        is_apart.then(|| (from[..=common].to_vec(), to[..=common].to_vec()))
    });
    lifted.collect()
}

/// What is left of the imports when modules that import nothing of what is left, or that nothing of it imports, are taken
/// away one after the other: circles, and what lies between them.
fn circles(mut imports: BTreeSet<(Module, Module)>) -> BTreeSet<(Module, Module)> {
    loop {
        let from: BTreeSet<Module> = imports.iter().map(|(from, _)| from.clone()).collect();
        let to: BTreeSet<Module> = imports.iter().map(|(_, to)| to.clone()).collect();
        let before = imports.len();
        imports.retain(|edge| from.contains(&edge.1) && to.contains(&edge.0));
        if imports.len() == before {
            return imports;
        }
    }
}

#[test]
fn no_modules_import_each_other() {
    let mut found = Vec::new();
    for folder in crates() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        for (from, to) in circles(siblings(&Modules::of(&folder.join("src")).imports())) {
            found.push(format!("{name}: {} imports {}", text(&from), text(&to)));
        }
    }
    assert!(found.is_empty(), "modules that import each other:\n{}", found.join("\n"));
}

#[test]
fn no_crate_is_too_large_to_read() {
    for folder in crates() {
        let files = WalkDir::new(folder.join("src")).into_iter().map(|entry| entry.unwrap().into_path());
        let sources = files.filter(|path| {
            let name = path.to_string_lossy();
            name.ends_with(".rs") && !name.contains("/tests/") && !name.ends_with("tests.rs")
        });
        let lines: usize = sources.map(|path| std::fs::read_to_string(path).unwrap().lines().count()).sum();
        assert!(lines <= MAX_LINES, "{} has {lines} lines; split it (at most {MAX_LINES})", folder.display());
    }
}

#[test]
fn circles_are_found() {
    let folder = std::env::temp_dir().join(format!("highwater-tidy-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("a")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("lib.rs", "mod a; pub use a::c::X; #[cfg(test)] mod t { use crate::a; }");
    write("a/mod.rs", "mod b; pub mod c; use b::Y;");
    write("a/b.rs", "pub struct Y; fn f() { super::c::g(); }");
    write("a/c.rs", "use crate::a::{b::{self, Y}}; pub fn g() {}");
    let imports = Modules::of(&folder).imports();
    std::fs::remove_dir_all(&folder).unwrap();
    let names: Vec<String> = imports.iter().map(|(from, to)| format!("{} {}", text(from), text(to))).collect();
    assert_eq!(names, ["a a::b", "a::b a::c", "a::c a::b"]);
    let imports = siblings(&imports);
    let circle: Vec<String> =
        circles(imports).iter().map(|(from, to)| format!("{} {}", text(from), text(to))).collect();
    assert_eq!(circle, ["a::b a::c", "a::c a::b"]);
}

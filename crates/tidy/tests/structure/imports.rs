//! Which modules of a crate import which: read from its source, tests left out.
//!
//! Owns: finding files and the paths in them. Does not own: the rules (`main`). Paths that macros take are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, UseTree};
use walkdir::WalkDir;

/// A module's path within its crate: empty for `lib.rs`.
pub type Module = Vec<String>;

/// The modules of one crate that have files of their own.
pub struct Modules {
    files: BTreeMap<Module, PathBuf>,
}

impl Modules {
    /// Finds the files below `src`; those of tests are left out.
    pub fn of(src: &Path) -> Self {
        let is_test =
            |path: &Path| path.iter().any(|part| part == "tests") || path.to_string_lossy().ends_with("tests.rs");
        let files = WalkDir::new(src).into_iter().map(|entry| entry.unwrap().into_path());
        let sources = files.filter(|path| path.extension().is_some_and(|end| end == "rs"));
        let named = sources.filter_map(|path| {
            let inside = path.strip_prefix(src).unwrap().to_path_buf();
            (!is_test(&inside)).then(|| (module(&inside), path))
        });
        Self { files: named.collect() }
    }

    /// Which module imports which, itself left out.
    pub fn imports(&self) -> BTreeSet<(Module, Module)> {
        let mut found = BTreeSet::new();
        for (module, path) in &self.files {
            let text = std::fs::read_to_string(path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut paths = Paths { here: module.clone(), modules: self, found: BTreeSet::new() };
            paths.visit_file(&file);
            found.extend(paths.found.into_iter().filter(|to| to != module).map(|to| (module.clone(), to)));
        }
        found
    }

    /// The module that a path into this crate ends in.
    fn owner(&self, path: &[String]) -> Option<Module> {
        (0..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| self.files.contains_key(module))
    }
}

fn module(inside: &Path) -> Module {
    let mut parts: Module = inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || (parts.len() == 1 && last == "lib")) {
        parts.pop();
    }
    parts
}

/// Collects the modules that a file's paths lead to.
struct Paths<'a> {
    here: Module,
    modules: &'a Modules,
    found: BTreeSet<Module>,
}

impl Paths<'_> {
    fn note(&mut self, path: &[String]) {
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [self.here.as_slice(), &path[1..]].concat(),
            Some("super") => {
                let up = path.iter().take_while(|part| *part == "super").count();
                let Some(kept) = self.here.len().checked_sub(up) else { return };
                [&self.here[..kept], &path[up..]].concat()
            }
            // A child, or something of another crate.
            Some(first) if self.modules.files.contains_key(&[self.here.as_slice(), &[first.to_string()]].concat()) => {
                [self.here.as_slice(), path].concat()
            }
            _ => return,
        };
        self.found.extend(self.modules.owner(&absolute));
    }

    fn walk(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.walk(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Name(name) => self.note(&[prefix.as_slice(), &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.note(&[prefix.as_slice(), &[name.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.note(prefix),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.walk(item, prefix)),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // What a module re-exports, it does not use.
        if !is_test(&item.attrs) && matches!(item.vis, syn::Visibility::Inherited) {
            self.walk(&item.tree, &mut Vec::new());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1 {
            self.note(&parts);
        }
        visit::visit_path(self, path);
    }
}

//! Which paths belong to a file set: patterns as in `.gitignore` (<https://git-scm.com/docs/gitignore#_pattern_format>).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{FilesError, Result};

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct Rules {
    include: Option<Gitignore>,
    exclude: Gitignore,
    /// A suffix that files of the set may have beside their names.
    suffix: Option<&'static str>,
}

impl Rules {
    /// Compiles patterns; without any to include, everything belongs to it.
    ///
    /// # Errors
    /// [`FilesError::Pattern`].
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        if !include.is_empty() && include.iter().all(|p| p.starts_with('!')) {
            let reason = "it takes out of what nothing puts in".into();
            return Err(FilesError::Pattern { pattern: include.join(" "), reason });
        }
        Ok(Self {
            include: (!include.is_empty()).then(|| compile(include)).transpose()?,
            exclude: compile(exclude)?,
            suffix: None,
        })
    }

    /// Takes files, too, whose names are those of files of the set, and this suffix.
    #[must_use]
    pub fn and_with(self, suffix: &'static str) -> Self {
        Self { suffix: Some(suffix), ..self }
    }

    /// Tells whether a path below the root belongs to it: it, or a folder above it, is included and not excluded.
    #[must_use]
    pub fn takes(&self, path: &Path, is_folder: bool) -> bool {
        let one = |path: &Path| {
            let included = self.include.as_ref();
            let included = included.is_none_or(|rules| rules.matched_path_or_any_parents(path, is_folder).is_ignore());
            included && !self.leaves_out(path, is_folder)
        };
        let bare = self.suffix.filter(|_| !is_folder).and_then(|s| path.as_os_str().as_bytes().strip_suffix(s.as_bytes()));
        one(path) || bare.is_some_and(|bare| !self.leaves_out(path, false) && one(Path::new(OsStr::from_bytes(bare))))
    }

    /// Tells whether a path is excluded; of a folder that is, nothing belongs to it.
    #[must_use]
    pub fn leaves_out(&self, path: &Path, is_folder: bool) -> bool {
        self.exclude.matched_path_or_any_parents(path, is_folder).is_ignore()
    }
}

fn compile(patterns: &[String]) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let bad = |reason: String| FilesError::Pattern { pattern: pattern.clone(), reason };
        // Such lines mean nothing in a .gitignore: here somebody meant something.
        if pattern.trim().is_empty() || pattern.starts_with('#') {
            return Err(bad("it matches nothing (\\# is a name that begins with #)".into()));
        }
        let path = pattern.trim_start_matches('!');
        if ["./", "../"].iter().any(|start| path.starts_with(start)) || path.split('/').any(|name| name == "..") {
            return Err(bad("it matches nothing: patterns count from the root, like /logs".into()));
        }
        builder.add_line(None, pattern).map_err(|e| bad(e.to_string()))?;
    }
    builder.build().map_err(|e| FilesError::Pattern { pattern: patterns.join(" "), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> Rules {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Rules::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn patterns_mean_what_gitignore_says() {
        let project = rules(&["sources/**/*.csv", "profiles.yml", "macros/", "!macros/draft.sql"], &["*.tmp", "/target/"]);
        let takes = |path: &str| project.takes(Path::new(path), false);
        assert!(takes("sources/a.csv") && takes("sources/x/y/b.csv") && takes("profiles.yml") && takes("deep/profiles.yml"));
        assert!(takes("macros/a.sql") && takes("macros/x/b.sql") && !takes("macros/draft.sql"));
        assert!(!takes("sources/a.txt") && !takes("other/a.csv") && !takes("macros/a.tmp"));
        let all = rules(&[], &["*.tmp", "/target/", "!keep.tmp"]);
        let takes = |path: &str| all.takes(Path::new(path), false);
        assert!(takes("a") && takes("x/target/a") && takes("keep.tmp") && !takes("target/a") && !takes("x/y.tmp"));
        assert!(all.leaves_out(Path::new("target"), true) && !all.leaves_out(Path::new("target"), false));
    }

    #[test]
    fn a_suffix_makes_no_other_files_part_of_it() {
        let logs = rules(&["*.log"], &["old/", "secret.log"]).and_with(".gz");
        let takes = |path: &str| logs.takes(Path::new(path), false);
        assert!(takes("a.log") && takes("x/a.log.gz") && !takes("a.txt.gz") && !takes("old/a.log.gz") && !takes("secret.log.gz"));
        assert!(!logs.takes(Path::new("a.log.gz"), true) || logs.takes(Path::new("a.log"), true));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let bad = Rules::new(&["[z-a].csv".to_owned()], &[]).unwrap_err();
        assert!(bad.to_string().contains("`[z-a].csv`"), "{bad}");
        for pattern in ["", " ", "#x", "./d", "../d", "a/../b", "!./d"] {
            assert!(Rules::new(&[], &[pattern.to_owned()]).is_err(), "{pattern}");
        }
        assert!(Rules::new(&["!x".to_owned()], &[]).is_err() && Rules::new(&[], &["!x".to_owned()]).is_ok());
    }
}

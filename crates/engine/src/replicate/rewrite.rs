//! What changes in a manifest and its `RESTORE.md` when a backup is copied: where it lies, and nothing else.
//!
//! The manifest is treated as a tree of JSON, so that fields that this version does not know travel with it.

use std::collections::HashMap;

use bytes::Bytes;
use dozo_catalog::CatalogError;
use dozo_model::{BackupId, Intent, Manifest, ObjectRef};
use dozo_store::Layout;
use serde_json::{Value, json};

use crate::{EngineError, Result};

/// Old names, and the new ones.
pub(super) struct Rewrite {
    urls: (String, String),
    ids: (BackupId, BackupId),
    keys: HashMap<String, String>,
}

impl Rewrite {
    pub(super) fn new(from_url: &str, to_url: &str, from: &BackupId, to: &BackupId) -> Self {
        Self { urls: (from_url.to_owned(), to_url.to_owned()), ids: (from.clone(), to.clone()), keys: HashMap::new() }
    }

    /// Notes where an object lies now.
    pub(super) fn moved(&mut self, from: &str, to: &str) {
        self.keys.insert(from.to_owned(), to.to_owned());
    }

    /// Rewrites the instructions. Keys and ids hold random letters: nothing else looks like them.
    pub(super) fn text(&self, text: &[u8]) -> Bytes {
        let mut text = String::from_utf8_lossy(text).replace(&self.urls.0, &self.urls.1);
        let mut keys: Vec<_> = self.keys.iter().filter(|(from, to)| from != to).collect();
        keys.sort();
        for (from, to) in keys {
            text = text.replace(from, to);
        }
        text.replace(self.ids.0.as_str(), self.ids.1.as_str()).into()
    }

    /// Rewrites the manifest and seals it.
    pub(super) fn manifest(&self, bytes: &[u8], intent: &Intent, repository: &str, objects: &[ObjectRef]) -> Result<Vec<u8>> {
        let (id, source) = (&intent.id, &intent.source);
        let unusable =
            |source_error| CatalogError::Manifest { source_name: source.clone(), id: id.clone(), source: source_error };
        let broken = |e: serde_json::Error| EngineError::Internal(e.to_string());
        let mut tree = Manifest::tree(bytes).map_err(unusable)?;
        self.keys_in(&mut tree);
        let shared = objects.iter().any(|o| Layout::owner(&o.key).is_some_and(|owner| &owner != id));
        tree["repository"] = json!(repository);
        tree["id"] = json!(id);
        tree["parent"] = json!(intent.parent.as_ref().filter(|_| shared));
        tree["replica-of"] = json!(intent.replica_of);
        // The copies are not locked by that.
        if let Some(fields) = tree.as_object_mut() {
            fields.remove("locked-until");
            fields.remove("lock-mode");
        }
        tree["objects"] = serde_json::to_value(objects).map_err(broken)?;
        for dataset in tree.get_mut("datasets").and_then(Value::as_array_mut).into_iter().flatten() {
            let owner = |part: &Value| part["object"].as_str().and_then(Layout::owner);
            let owners: Option<Vec<BackupId>> = dataset["parts"].as_array().map(|p| p.iter().filter_map(owner).collect());
            let foreign = owners.unwrap_or_default().into_iter().find(|owner| owner != id);
            dataset["copied-by"] = json!(foreign);
        }
        Manifest::seal(&tree).map_err(broken)
    }

    /// Replaces every text that is a key.
    fn keys_in(&self, tree: &mut Value) {
        match tree {
            Value::String(text) => {
                if let Some(key) = self.keys.get(text.as_str()) {
                    text.clone_from(key);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.keys_in(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.keys_in(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

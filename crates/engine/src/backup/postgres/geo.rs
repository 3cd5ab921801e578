//! The `geo` metadata of GeoParquet 1.1.0: which columns hold geometries, and in which reference.
//!
//! Longitude and latitude on WGS 84 (4326) is what GeoParquet assumes; any other reference is said to be unknown, because its
//! description belongs into PROJJSON, which the server does not have. The number itself stands in `dozo.columns`.

use dozo_model::{Column, PgType};
use serde_json::{Map, Value, json};

/// Returns the metadata, if there are geometries.
pub(super) fn metadata(columns: &[Column]) -> Option<(String, String)> {
    let mut described = Map::new();
    for column in columns {
        let PgType::Geometry { srid } = column.wire else { continue };
        let mut facts = json!({ "encoding": "WKB", "geometry_types": [] });
        if srid != 4326 {
            facts["crs"] = Value::Null;
        }
        if column.type_name.contains("geography") {
            facts["edges"] = "spherical".into();
        }
        described.insert(column.parquet_name.clone(), facts);
    }
    let primary = columns.iter().find(|c| described.contains_key(&c.parquet_name))?;
    let geo = json!({ "version": "1.1.0", "primary_column": primary.parquet_name, "columns": described });
    Some(("geo".into(), geo.to_string()))
}

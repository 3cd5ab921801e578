//! Reads the catalogs for what columns are: their types, and how each is carried.
//!
//! Place in the flow: before the first row. Whatever has a known binary form that means the same in every database travels in
//! it; everything else travels as text. *Invariant*: a type whose text no server reads back, or says less than the value, is refused here, before a byte is
//! copied, and never found out at a restore.

use std::collections::{HashMap, HashSet};

use dozo_model::{Column, CompositeField, NumericMod, PgType, Profile};

use crate::codec::different_without_case;
use crate::error::{Loss, PgError, UnsupportedColumn};
use crate::inspect::TableInfo;
use crate::session::{ServerFacts, Session};
use crate::sql::NO_ENCODING;

/// Nesting of composites that engines read; deeper ones are text.
const DEEPEST: usize = 8;

/// Input functions that refuse every text: values of these types are made by the server alone.
const WRITE_ONLY: [&str; 15] = [
    "pg_node_tree_in",
    "pg_ndistinct_in",
    "pg_dependencies_in",
    "pg_mcv_list_in",
    "pg_ddl_command_in",
    "brin_bloom_summary_in",
    "brin_minmax_multi_summary_in",
    "gtsvectorin",
    "gbtreekey_in",
    "gtrgm_in",
    "ghstore_in",
    "_intbig_in",
    "ltree_gist_in",
    "box2df_in",
    "gidx_in",
];

/// Input functions of types whose output is shorter than the value: `seg` prints six digits, the boxes of PostGIS fifteen.
const SHORTENED: [&str; 3] = ["seg_in", "box2d_in", "box3d_in"];

/// How columns are to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeOptions {
    /// For whom files are written.
    pub profile: Profile,
    /// Decimals of `money`.
    money_scale: u8,
    /// The database does not know its encoding: texts are bytes.
    raw: bool,
}

impl TypeOptions {
    /// For a database.
    #[must_use]
    pub fn new(facts: &ServerFacts, profile: Profile) -> Self {
        Self { profile, money_scale: facts.money_scale, raw: facts.encoding == NO_ENCODING }
    }
}

struct TypeRow {
    schema: String,
    name: String,
    kind: String,
    base: u32,
    base_typmod: i32,
    element: u32,
    is_array: bool,
    delimiter: String,
    input: String,
    extension: Option<String>,
}

/// What is known about all types: how columns are carried.
pub struct TypeCatalog {
    types: HashMap<u32, TypeRow>,
    labels: HashMap<u32, Vec<String>>,
    fields: HashMap<u32, Vec<(String, u32, i32)>>,
    options: TypeOptions,
}

/// How a column is carried, or why it cannot be.
type Resolved = Result<(PgType, Vec<String>), Loss>;

impl TypeCatalog {
    /// Loads types, enum labels and the fields of composites.
    ///
    /// # Errors
    /// What the server says.
    pub async fn load(session: &Session, options: TypeOptions) -> Result<Self, PgError> {
        let rows = session
            .query(
                "listing the types",
                "SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typbasetype, t.typtypmod, t.typelem,
                        t.typelem <> 0 AND p.proname = 'array_in', t.typdelim::text, p.proname::text, e.extname::text
                 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_proc p ON p.oid = t.typinput
                 LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                 LEFT JOIN pg_extension e ON e.oid = d.refobjid",
                &[],
            )
            .await?;
        let types = rows
            .iter()
            .map(|r| {
                let row = TypeRow {
                    schema: r.get(1),
                    name: r.get(2),
                    kind: r.get(3),
                    base: r.get(4),
                    base_typmod: r.get(5),
                    element: r.get(6),
                    is_array: r.get(7),
                    delimiter: r.get(8),
                    input: r.get(9),
                    extension: r.get(10),
                };
                (r.get::<_, u32>(0), row)
            })
            .collect();
        let rows = session
            .query(
                "listing the enums",
                "SELECT enumtypid, array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum GROUP BY 1",
                &[],
            )
            .await?;
        let labels = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        // Every table is a type, too: only those are read that a column is made of.
        let rows = session
            .query(
                "listing the composite types",
                "WITH used AS (SELECT atttypid AS oid FROM pg_attribute WHERE attnum > 0 AND attrelid >= 16384
                               UNION SELECT typbasetype FROM pg_type WHERE typbasetype <> 0)
                 SELECT t.oid, a.attname::text, a.atttypid, a.atttypmod FROM pg_type t
                 JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                 WHERE t.typtype = 'c'
                   AND t.oid IN (SELECT oid FROM used UNION SELECT e.typelem FROM used u JOIN pg_type e ON e.oid = u.oid)
                 ORDER BY t.oid, a.attnum",
                &[],
            )
            .await?;
        let mut fields: HashMap<u32, Vec<(String, u32, i32)>> = HashMap::new();
        for row in &rows {
            fields.entry(row.get(0)).or_default().push((row.get(1), row.get(2), row.get(3)));
        }
        Ok(Self { types, labels, fields, options })
    }

    /// Returns how a column of this type is carried, and the labels of its enum.
    fn resolve(&self, oid: u32, typmod: i32) -> Resolved {
        self.resolve_at(oid, typmod, 0)
    }

    fn resolve_at(&self, oid: u32, typmod: i32, depth: usize) -> Resolved {
        let plain = |wire: PgType| Ok((wire, Vec::new()));
        let Some(row) = self.types.get(&oid) else { return plain(self.text(PgType::AsText)) };
        match row.kind.as_str() {
            "d" => self.resolve_at(row.base, row.base_typmod, depth),
            "e" => Ok((self.text(PgType::Enum), self.labels.get(&oid).cloned().unwrap_or_default())),
            "c" => plain(self.composite(oid, depth)?),
            _ if row.is_array => self.array(row, typmod, depth),
            _ if WRITE_ONLY.contains(&row.input.as_str()) => Err(Loss::Unreadable),
            _ if SHORTENED.contains(&row.input.as_str()) => Err(Loss::Shortened),
            _ => plain(self.scalar(oid, row, typmod)),
        }
    }

    fn composite(&self, oid: u32, depth: usize) -> Result<PgType, Loss> {
        let fields = self.fields.get(&oid).map_or(&[][..], Vec::as_slice);
        let resolved = fields.iter().map(|(name, oid, typmod)| {
            let (wire, _) = self.resolve_at(*oid, *typmod, depth + 1)?;
            // The output function of composites writes XML without its declaration.
            if wire.holds_xml() {
                return Err(Loss::Shortened);
            }
            Ok(CompositeField { name: name.clone(), wire: within_text(wire) })
        });
        let fields = resolved.collect::<Result<Vec<_>, Loss>>()?;
        if fields.is_empty() || depth >= DEEPEST || self.options.raw {
            return Ok(self.text(PgType::AsText));
        }
        Ok(PgType::Composite(fields))
    }

    fn array(&self, row: &TypeRow, typmod: i32, depth: usize) -> Resolved {
        let (inner, labels) = self.resolve_at(row.element, typmod, depth)?;
        let element = self.types.get(&row.element);
        let delimited = element.is_none_or(|e| e.delimiter == ",");
        let domain = element.is_some_and(|e| e.kind == "d");
        let bare = if let PgType::Raw(bare) = &inner { bare } else { &inner };
        let as_text = domain || PgType::Array(Box::new(bare.clone())).travels_as_text();
        if as_text && (self.options.raw || !delimited) {
            let wire = if inner.holds_xml() { PgType::Array(Box::new(PgType::Xml)) } else { PgType::AsText };
            return Ok((self.text(wire), labels));
        }
        let wire = match (domain, as_text) {
            (true, _) => PgType::DomainArray(Box::new(within_text(inner))),
            (false, true) => PgType::Array(Box::new(within_text(inner))),
            (false, false) => PgType::Array(Box::new(inner)),
        };
        Ok((wire, labels))
    }

    fn scalar(&self, oid: u32, row: &TypeRow, typmod: i32) -> PgType {
        if row.schema == "pg_catalog" {
            let built_in = built_in(oid, typmod, self.options.money_scale).unwrap_or(PgType::AsText);
            return self.text(built_in);
        }
        match (row.extension.as_deref(), row.name.as_str()) {
            (Some("citext"), "citext") => self.text(PgType::Citext),
            (Some("hstore"), "hstore") if !self.options.raw => PgType::Hstore,
            (Some("vector"), "vector" | "halfvec") => PgType::Vector,
            (Some("vector"), "sparsevec") => PgType::Sparsevec,
            (Some("postgis"), "geometry") => PgType::Geometry { srid: srid(typmod) },
            // A geography without a modifier is of WGS 84.
            (Some("postgis"), "geography") => PgType::Geometry { srid: if typmod < 0 { 4326 } else { srid(typmod) } },
            _ => self.text(PgType::AsText),
        }
    }

    /// Texts of a database without an encoding are bytes.
    fn text(&self, wire: PgType) -> PgType {
        match wire {
            PgType::Jsonb if self.options.raw => PgType::Raw(Box::new(PgType::AsText)),
            PgType::Text
            | PgType::Varchar
            | PgType::Bpchar
            | PgType::Name
            | PgType::Json
            | PgType::Enum
            | PgType::Citext
            | PgType::Xml
            | PgType::Array(_)
            | PgType::AsText
                if self.options.raw =>
            {
                PgType::Raw(Box::new(wire))
            }
            wire => wire,
        }
    }
}

/// Within a text, money looks as the locale wants it.
fn within_text(wire: PgType) -> PgType {
    match wire {
        PgType::Money { .. } => PgType::AsText,
        PgType::Array(inner) => PgType::Array(Box::new(within_text(*inner))),
        wire => wire,
    }
}

/// Reads the spatial reference of a type modifier (`TYPMOD_GET_SRID` of PostGIS' `liblwgeom.h`).
fn srid(typmod: i32) -> i32 {
    if typmod < 0 { 0 } else { ((typmod & 0x0fff_ff00) - (typmod & 0x1000_0000)) >> 8 }
}

fn built_in(oid: u32, typmod: i32, money_scale: u8) -> Option<PgType> {
    Some(match oid {
        16 => PgType::Bool,
        17 => PgType::Bytea,
        18 => PgType::Char,
        19 => PgType::Name,
        20 => PgType::Int8,
        21 => PgType::Int2,
        23 => PgType::Int4,
        25 => PgType::Text,
        26 => PgType::Oid,
        28 => PgType::Xid,
        29 => PgType::Cid,
        114 => PgType::Json,
        142 => PgType::Xml,
        650 => PgType::Cidr,
        700 => PgType::Float4,
        701 => PgType::Float8,
        774 => PgType::Macaddr8,
        790 => PgType::Money { scale: money_scale },
        829 => PgType::Macaddr,
        869 => PgType::Inet,
        1042 => PgType::Bpchar,
        1043 => PgType::Varchar,
        1082 => PgType::Date,
        1083 => PgType::Time,
        1114 => PgType::Timestamp,
        1184 => PgType::Timestamptz,
        1186 => PgType::Interval,
        1266 => PgType::Timetz,
        1560 => PgType::Bit,
        1562 => PgType::Varbit,
        1700 => PgType::Numeric(NumericMod::from_typmod(typmod)),
        2950 => PgType::Uuid,
        3802 => PgType::Jsonb,
        _ => return None,
    })
}

/// Reads the columns of `tables`, in the root's order, those that are not loaded last. A partition gets its root's order and
/// numbers, by name. `text_only` tells of a column that nobody can load whether its text is to be exported nevertheless.
///
/// # Errors
/// [`PgError::Unsupported`] with every column of a type whose values would not come back.
pub async fn columns(
    session: &Session,
    types: &TypeCatalog,
    tables: &[&TableInfo],
    text_only: impl Fn(&TableInfo, &str) -> bool,
) -> Result<HashMap<u32, Vec<Column>>, PgError> {
    let mut oids: HashSet<u32> = tables.iter().map(|t| t.oid).collect();
    oids.extend(tables.iter().filter_map(|t| t.root.as_ref()).map(|(oid, _)| *oid));
    let oids: Vec<u32> = oids.into_iter().collect();
    let rows = session
        .query(
            "reading the columns",
            "SELECT attrelid, attnum, attname::text, atttypid, atttypmod, format_type(atttypid, atttypmod), attnotnull,
                    attgenerated <> ''
             FROM pg_attribute WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum",
            &[&oids],
        )
        .await?;
    let mut raw: HashMap<u32, Vec<(Column, Option<Loss>)>> = HashMap::new();
    for row in &rows {
        let resolved = types.resolve(row.get(3), row.get(4));
        let refused = resolved.as_ref().err().copied();
        let (wire, labels) = resolved.unwrap_or((PgType::AsText, vec![]));
        let profile = types.options.profile;
        let column = Column {
            name: row.get(2),
            parquet_name: String::new(),
            type_name: row.get(5),
            parquet: wire.parquet(profile),
            wire,
            attnum: row.get(1),
            not_null: row.get(6),
            generated: row.get(7),
            text_only: false,
            profile,
            labels,
        };
        raw.entry(row.get(0)).or_default().push((column, refused));
    }
    let mut found = HashMap::new();
    let mut unsupported = Vec::new();
    for table in tables {
        let mut own = raw.get(&table.oid).cloned().unwrap_or_default();
        let order: HashMap<&str, i16> = match &table.root {
            Some((root, _)) => raw.get(root).into_iter().flatten().map(|(c, _)| (c.name.as_str(), c.attnum)).collect(),
            None => HashMap::new(),
        };
        for (column, refused) in &mut own {
            column.attnum = order.get(column.name.as_str()).copied().unwrap_or(column.attnum);
            column.text_only = refused.is_some() && text_only(table, &column.name);
            if let Some(loss) = *refused
                && !column.text_only
                && !column.generated
            {
                unsupported.push(UnsupportedColumn {
                    table: table.name.clone(),
                    column: column.name.clone(),
                    type_name: column.type_name.clone(),
                    loss,
                });
            }
        }
        own.sort_by_key(|(c, _)| (!c.loaded(), c.attnum));
        let mut columns: Vec<Column> = own.into_iter().map(|(c, _)| c).collect();
        let names = different_without_case(columns.iter().map(|c| c.name.as_str()));
        columns.iter_mut().zip(names).for_each(|(column, name)| column.parquet_name = name);
        found.insert(table.oid, columns);
    }
    if unsupported.is_empty() { Ok(found) } else { Err(PgError::Unsupported { columns: unsupported }) }
}

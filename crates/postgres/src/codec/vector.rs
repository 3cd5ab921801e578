//! pgvector: vector and halfvec as `LIST<FLOAT>`, sparsevec as STRUCT. They travel as text, `[1,2.5]` and `{1:0.5,3:2}/5`.
//!
//! The text of a float is the shortest that reads back as the same float, in both directions; a value that would be written
//! in another way escapes.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, Int32Builder, ListBuilder};
use arrow_array::{Array as _, ArrayRef, Float32Array, Int32Array, ListArray, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field, Fields};

use super::floats::float4_text;
use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, text_wire, utf8};

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, true)))
}

fn floats_builder() -> ListBuilder<Float32Builder> {
    ListBuilder::new(Float32Builder::new()).with_field(Field::new("element", DataType::Float32, true))
}

fn ints_builder() -> ListBuilder<Int32Builder> {
    ListBuilder::new(Int32Builder::new()).with_field(Field::new("element", DataType::Int32, true))
}

/// `vector`, `halfvec`.
pub(crate) struct Vector;

fn vector_text(values: &[f32]) -> String {
    let values: Vec<String> = values.iter().map(|v| float4_text(*v)).collect();
    format!("[{}]", values.join(","))
}

fn read_vector(wire: &[u8]) -> Result<Option<Vec<f32>>> {
    let text = utf8(wire)?;
    let parse = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.split(',').map(|v| v.parse().ok()).collect::<Option<Vec<f32>>>()
    };
    Ok(parse().filter(|values| vector_text(values) == text))
}

impl Family for Vector {
    fn arrow(&self) -> DataType {
        list_of(DataType::Float32)
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(read_vector(wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(VectorBuilder(floats_builder()))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(VectorColumn(downcast(array)?)))
    }

    text_wire!();
}

struct VectorBuilder(ListBuilder<Float32Builder>);

impl ColumnBuilder for VectorBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let read = wire.map(read_vector).transpose()?.flatten();
        if let Some(values) = &read {
            self.0.values().append_slice(values);
        }
        self.0.append(read.is_some());
        Ok(read.is_some() || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

fn floats(list: &ListArray, row: usize) -> Result<Vec<f32>> {
    let values: Float32Array = downcast(&list.value(row))?;
    Ok(values.values().to_vec())
}

struct VectorColumn(ListArray);

impl Values for VectorColumn {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(vector_text(&floats(&self.0, row)?).as_bytes());
        Ok(())
    }
}

/// `sparsevec`: indices count from 1, as its text does.
pub(crate) struct Sparsevec;

struct Sparse {
    dimensions: i32,
    indices: Vec<i32>,
    values: Vec<f32>,
}

impl Sparse {
    fn text(&self) -> String {
        let pairs: Vec<String> = self.indices.iter().zip(&self.values).map(|(i, v)| format!("{i}:{}", float4_text(*v))).collect();
        format!("{{{}}}/{}", pairs.join(","), self.dimensions)
    }

    fn read(wire: &[u8]) -> Result<Option<Self>> {
        let text = utf8(wire)?;
        let parse = || {
            let (pairs, dimensions) = text.strip_prefix('{')?.split_once("}/")?;
            let mut sparse = Self { dimensions: dimensions.parse().ok()?, indices: vec![], values: vec![] };
            for pair in pairs.split(',').filter(|p| !p.is_empty()) {
                let (index, value) = pair.split_once(':')?;
                sparse.indices.push(index.parse().ok()?);
                sparse.values.push(value.parse().ok()?);
            }
            Some(sparse)
        };
        Ok(parse().filter(|sparse: &Self| sparse.text() == text))
    }
}

fn sparse_fields() -> Fields {
    Fields::from(vec![
        Field::new("dimensions", DataType::Int32, true),
        Field::new("indices", list_of(DataType::Int32), true),
        Field::new("values", list_of(DataType::Float32), true),
    ])
}

impl Family for Sparsevec {
    fn arrow(&self) -> DataType {
        DataType::Struct(sparse_fields())
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(Sparse::read(wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(SparseBuilder {
            dimensions: Int32Builder::new(),
            indices: ints_builder(),
            values: floats_builder(),
            nulls: NullBufferBuilder::new(0),
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        let array: StructArray = downcast(array)?;
        if array.num_columns() != 3 {
            return bad("a sparse vector column without its three fields");
        }
        Ok(Box::new(SparseColumn {
            dimensions: downcast(array.column(0))?,
            indices: downcast(array.column(1))?,
            values: downcast(array.column(2))?,
            array,
        }))
    }

    text_wire!();
}

struct SparseBuilder {
    dimensions: Int32Builder,
    indices: ListBuilder<Int32Builder>,
    values: ListBuilder<Float32Builder>,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder for SparseBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let read = wire.map(Sparse::read).transpose()?.flatten();
        self.dimensions.append_option(read.as_ref().map(|s| s.dimensions));
        if let Some(sparse) = &read {
            self.indices.values().append_slice(&sparse.indices);
            self.values.values().append_slice(&sparse.values);
        }
        self.indices.append(read.is_some());
        self.values.append(read.is_some());
        self.nulls.append(read.is_some());
        Ok(read.is_some() || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.dimensions.finish()), Arc::new(self.indices.finish()), Arc::new(self.values.finish())];
        let array = StructArray::try_new(sparse_fields(), columns, self.nulls.finish());
        Ok(Arc::new(array.map_err(|e| WireError(e.to_string()))?))
    }
}

struct SparseColumn {
    array: StructArray,
    dimensions: Int32Array,
    indices: ListArray,
    values: ListArray,
}

impl Values for SparseColumn {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let indices: Int32Array = downcast(&self.indices.value(row))?;
        let sparse = Sparse {
            dimensions: self.dimensions.value(row),
            indices: indices.values().to_vec(),
            values: floats(&self.values, row)?,
        };
        out.extend_from_slice(sparse.text().as_bytes());
        Ok(())
    }
}

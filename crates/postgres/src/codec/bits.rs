//! bit and bit varying as STRING of 0 and 1: `bit_send` and `varbit_send`, the number of bits and the bits, first one highest.

use arrow_array::ArrayRef;
use arrow_schema::DataType;

use super::network::string_family;
use super::text::{strings_builder, strings_values};
use super::{ColumnBuilder, Family, Result, Values, WireError, bad};

/// `bit` and `bit varying`.
#[derive(Clone, Copy)]
pub(crate) struct Bits;

impl Bits {
    fn text(self, wire: &[u8]) -> Result<String> {
        let Some((length, bytes)) = wire.split_first_chunk::<4>() else { return bad("a bit string of less than four bytes") };
        let bits =
            usize::try_from(i32::from_be_bytes(*length)).map_err(|_| WireError("a bit string of negative length".into()))?;
        if bits.div_ceil(8) != bytes.len() {
            return bad("a bit string of another length than it says");
        }
        let text = (0..bits).map(|i| if bytes[i / 8] >> (7 - i % 8) & 1 == 1 { '1' } else { '0' }).collect();
        // Bits behind the end are zero (`VARBIT_PAD`): others would not come back.
        let used = bits % 8;
        if used > 0 && bytes.last().is_some_and(|last| last << used != 0) {
            return bad("a bit string with bits behind its end");
        }
        Ok(text)
    }

    fn parse(self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let length = i32::try_from(text.len()).map_err(|_| WireError("a bit string above 2 GB".into()))?;
        out.extend_from_slice(&length.to_be_bytes());
        for byte in text.as_bytes().chunks(8) {
            let mut value = 0;
            for (i, bit) in byte.iter().enumerate() {
                match bit {
                    b'0' => {}
                    b'1' => value |= 0x80 >> i,
                    _ => return bad(format!("`{text}` is not a bit string")),
                }
            }
            out.push(value);
        }
        Ok(())
    }
}

string_family!(Bits);

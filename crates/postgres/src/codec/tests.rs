//! Every family: wire → Arrow → wire, and wire → text → wire, for ordinary and extreme values.

use dozo_model::{NumericMod, PgType};
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// Pushes values through a column; returns which of them fit. Whatever fits comes back bit for bit, whatever escapes comes
/// back from its text.
fn round_trip(wire: &PgType, values: &[Vec<u8>]) -> Vec<bool> {
    let family = family(wire);
    let mut builder = family.builder();
    let mut fits = Vec::new();
    for value in values {
        let fit = builder.push(Some(value)).unwrap();
        assert_eq!(fit, family.fits(value).unwrap(), "{wire}: {value:02x?}");
        let text = family.to_text(value).unwrap();
        let mut again = Vec::new();
        family.parse_text(&text, &mut again).unwrap();
        assert_eq!(&again, value, "{wire}: text `{text}`");
        fits.push(fit);
    }
    builder.push(None).unwrap();
    let array = builder.finish().unwrap();
    assert_eq!(array.data_type(), &family.arrow());
    let reader = family.values(&array).unwrap();
    for (row, value) in values.iter().enumerate() {
        assert_eq!(reader.is_null(row), !fits[row]);
        if fits[row] {
            let mut again = Vec::new();
            reader.write(row, &mut again).unwrap();
            assert_eq!(&again, value, "{wire}: row {row}");
        }
    }
    assert!(reader.is_null(values.len()));
    fits
}

fn numeric(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    family(&PgType::Numeric(None)).parse_text(text, &mut out).unwrap();
    out
}

fn constrained(precision: u16, scale: i16) -> PgType {
    PgType::Numeric(Some(NumericMod { precision, scale }))
}

/// Bytes taken from a server (`numeric_send`).
#[test]
fn numeric_wire_forms() {
    for (text, wire) in [
        ("0.00", "0000 0000 0000 0002"),
        ("10000", "0001 0001 0000 0000 0001"),
        ("-0.00012", "0002 ffff 4000 0005 0001 07d0"),
        ("NaN", "0000 0000 c000 0000"),
        ("Infinity", "0000 0000 d000 0020"),
        ("-Infinity", "0000 0000 f000 0020"),
        ("123456789.123", "0004 0002 0000 0003 0001 0929 1a85 04ce"),
    ] {
        assert_eq!(numeric(text), hex(wire), "{text}");
        assert_eq!(family(&PgType::Numeric(None)).to_text(&hex(wire)).unwrap(), text);
    }
}

#[test]
fn decimals_hold_what_they_can_and_nothing_else() {
    let values: Vec<Vec<u8>> = ["0.00", "-0.01", "1.10", "12345678.90", "99999999.99", "NaN"].map(numeric).to_vec();
    assert_eq!(round_trip(&constrained(10, 2), &values), [true, true, true, true, true, false]);
    // Another display scale, too many digits: kept as text, never rounded.
    assert_eq!(round_trip(&constrained(4, 2), &["1.1", "1.100", "100.00", "Infinity"].map(numeric)), [false; 4]);
    let wide = ["99999999999999999999999999999999999999", "-1", "0", "10000"].map(numeric);
    assert_eq!(round_trip(&constrained(38, 0), &wide), [true; 4]);
    assert_eq!(round_trip(&constrained(38, 1), &["9999999999999999999999999999999999999.9", "0.1"].map(numeric)), [true; 2]);
    assert_eq!(round_trip(&constrained(38, 38), &["0.99999999999999999999999999999999999999"].map(numeric)), [true]);
    assert_eq!(round_trip(&constrained(2, 5), &["0.00099", "-0.00001"].map(numeric)), [true; 2]);
    assert_eq!(round_trip(&constrained(5, -2), &["1234500", "-100", "0"].map(numeric)), [true; 3]);
    assert_eq!(
        round_trip(
            &PgType::Numeric(None),
            &["1.0", "1.00", "NaN", "-Infinity", "1000000000000000000000000000000000000000000.5"].map(numeric)
        ),
        [true; 5]
    );
}

#[test]
fn dates_and_times() {
    let date = |d: i32| d.to_be_bytes().to_vec();
    assert_eq!(
        round_trip(&PgType::Date, &[date(0), date(-2_451_545), date(2_145_031_948), date(i32::MAX), date(i32::MIN)]),
        [true, true, true, false, false]
    );
    let stamp = |t: i64| t.to_be_bytes().to_vec();
    let stamps =
        [stamp(0), stamp(-211_813_488_000_000_000), stamp(1), stamp(i64::MAX), stamp(i64::MIN), stamp(9_223_371_331_199_999_999)];
    for wire in [PgType::Timestamp, PgType::Timestamptz] {
        assert_eq!(round_trip(&wire, &stamps), [true, true, true, false, false, false]);
    }
    assert_eq!(round_trip(&PgType::Time, &[stamp(0), stamp(86_400_000_000), stamp(1)]), [true; 3]);
    let zoned = |t: i64, west: i32| [t.to_be_bytes().to_vec(), west.to_be_bytes().to_vec()].concat();
    assert_eq!(
        round_trip(&PgType::Timetz, &[zoned(0, -7200), zoned(86_400_000_000, 57_599), zoned(5, -1), zoned(5, 0)]),
        [true; 4]
    );
    let interval =
        |us: i64, d: i32, m: i32| [us.to_be_bytes().to_vec(), d.to_be_bytes().to_vec(), m.to_be_bytes().to_vec()].concat();
    let intervals = [
        interval(3_500_001, -2, 1),
        interval(i64::MIN, 0, 0),
        interval(i64::MAX, i32::MAX, i32::MAX),
        interval(i64::MIN, i32::MIN, i32::MIN),
    ];
    assert_eq!(round_trip(&PgType::Interval, &intervals), [true, true, false, false]);
}

#[test]
fn bits_of_floats_survive() {
    for bits in [0u64, 1 << 63, 0x7ff8_0000_0000_0000, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000, 1, 0x3fb9_9999_9999_999a] {
        assert_eq!(round_trip(&PgType::Float8, &[bits.to_be_bytes().to_vec()]), [true]);
    }
    let payload = 0xfff8_0000_0000_0001u64.to_be_bytes();
    let mut builder = family(&PgType::Float8).builder();
    builder.push(Some(&payload)).unwrap();
    let reader = family(&PgType::Float8).values(&builder.finish().unwrap()).unwrap();
    let mut again = Vec::new();
    reader.write(0, &mut again).unwrap();
    assert_eq!(again, payload);
}

fn array(elements: &[Option<&[u8]>], lower: i32, oid: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let dimensions = i32::from(!elements.is_empty());
    for n in [dimensions, i32::from(elements.iter().any(Option::is_none)), oid.cast_signed()] {
        out.extend_from_slice(&n.to_be_bytes());
    }
    if dimensions == 1 {
        out.extend_from_slice(&i32::try_from(elements.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&lower.to_be_bytes());
    }
    for e in elements {
        match e {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(b) => {
                out.extend_from_slice(&i32::try_from(b.len()).unwrap().to_be_bytes());
                out.extend_from_slice(b);
            }
        }
    }
    out
}

#[test]
fn arrays() {
    let text = PgType::Array(Box::new(PgType::Text));
    let values = [
        array(&[], 1, 25),
        array(&[Some(b"a"), None, Some(b""), Some(b"NULL"), Some(b"q\"\\{},x y")], 1, 25),
        array(&[Some(b"a")], 0, 25),
        hex("00000002 00000000 00000019 00000002 00000001 00000001 00000005 00000001 78 00000001 79"
            .replace("00000005", "00000001")
            .as_str()),
    ];
    assert_eq!(round_trip(&text, &values), [true, true, false, false]);
    let money = numeric("NaN");
    let decimals = PgType::Array(Box::new(constrained(10, 2)));
    assert_eq!(
        round_trip(&decimals, &[array(&[Some(&money)], 1, 1700), array(&[Some(&numeric("1.00")), None], 1, 1700)]),
        [false, true]
    );
    let enums = PgType::Array(Box::new(PgType::Enum));
    let literals = ["{}", "{a,NULL,\"NULL\",\"b c\",\"\"}", "[0:1]={a,b}", "{{a,b},{c,NULL}}"].map(|s| s.as_bytes().to_vec());
    assert_eq!(round_trip(&enums, &literals), [true, true, false, false]);
}

#[test]
fn an_idle_null_flag_is_cleared() {
    let mut idle = array(&[Some(b"a")], 1, 25);
    idle[7] = 1;
    clear_idle_null_flag(&mut idle).unwrap();
    assert_eq!(idle, array(&[Some(b"a")], 1, 25));
    let mut used = array(&[None], 1, 25);
    clear_idle_null_flag(&mut used).unwrap();
    assert_eq!(used, array(&[None], 1, 25));
}

#[test]
fn texts_and_bytes() {
    for wire in [PgType::Text, PgType::Varchar, PgType::Bpchar, PgType::Name, PgType::Json, PgType::Enum] {
        assert_eq!(round_trip(&wire, &[b"".to_vec(), b"a  ".to_vec(), "\u{6ce8}\u{6587}".as_bytes().to_vec()]), [true; 3]);
    }
    assert_eq!(round_trip(&PgType::Jsonb, &[b"\x01{\"a\": 1.00}".to_vec()]), [true]);
    assert_eq!(round_trip(&PgType::Char, &[vec![0], vec![b'x'], vec![0xe9], vec![b'\\']]), [true, true, false, true]);
    assert_eq!(round_trip(&PgType::Bytea, &[vec![], vec![0, 255, 16]]), [true; 2]);
    assert_eq!(round_trip(&PgType::Uuid, &[(0..16).collect()]), [true]);
    assert_eq!(round_trip(&PgType::Bool, &[vec![0], vec![1]]), [true; 2]);
    assert_eq!(round_trip(&PgType::Oid, &[vec![255; 4], vec![0; 4]]), [true; 2]);
    assert_eq!(
        round_trip(&PgType::Money { scale: 2 }, &[(-5i64).to_be_bytes().to_vec(), i64::MIN.to_be_bytes().to_vec()]),
        [true; 2]
    );
    let mut builder = family(&PgType::Text).builder();
    assert!(builder.push(Some(&[0xff])).is_err() || builder.finish().is_err());
    assert!(builder.push(Some(b"fine")).is_ok() && builder.finish().is_ok());
    assert!(family(&PgType::Jsonb).builder().push(Some(b"\x02{}")).is_err());
}

proptest! {
    #[test]
    fn any_numeric(sign in any::<bool>(), whole in "0|[1-9][0-9]{0,40}", fraction in "[0-9]{0,30}") {
        let zero = whole.bytes().chain(fraction.bytes()).all(|c| c == b'0');
        let sign = if sign && !zero { "-" } else { "" };
        let text = if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
        let wire = numeric(&text);
        prop_assert_eq!(family(&PgType::Numeric(None)).to_text(&wire).unwrap(), text);
        let (precision, scale) = (whole.len() + fraction.len(), fraction.len());
        if precision <= 38 {
            let wire_type = constrained(u16::try_from(precision).unwrap(), i16::try_from(scale).unwrap());
            prop_assert_eq!(round_trip(&wire_type, &[wire]), [true]);
        }
    }

    #[test]
    fn any_timestamp(micros in -211_813_488_000_000_000i64..9_223_371_331_200_000_000) {
        round_trip(&PgType::Timestamptz, &[micros.to_be_bytes().to_vec()]);
    }

    #[test]
    fn any_text_array(elements in prop::collection::vec(prop::option::of("[ -~\u{e9}\n]{0,6}"), 0..6), lower in -2i32..3) {
        let bytes: Vec<Option<&[u8]>> = elements.iter().map(|e| e.as_deref().map(str::as_bytes)).collect();
        let fits = round_trip(&PgType::Array(Box::new(PgType::Text)), &[array(&bytes, lower, 25)]);
        prop_assert_eq!(fits, [elements.is_empty() || lower == 1]);
    }

    /// Bytes that no server sends are an error or a value, never a panic.
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for wire in [PgType::Numeric(None), constrained(10, 2), PgType::Array(Box::new(PgType::Int4)), PgType::Array(Box::new(PgType::Enum)),
                     PgType::Timetz, PgType::Time, PgType::Interval, PgType::Date, PgType::Uuid, PgType::Char, PgType::Jsonb] {
            let _ = family(&wire).builder().push(Some(&bytes));
            let _ = family(&wire).to_text(&bytes);
            let mut out = Vec::new();
            let _ = family(&wire).parse_text(&String::from_utf8_lossy(&bytes), &mut out);
        }
    }
}

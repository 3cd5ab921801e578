//! Every family: wire → Arrow → wire, and wire → text → wire, for ordinary and extreme values.

use dozo_model::{NumericMod, PgType};
use proptest::prelude::*;

use super::*;

fn family(wire: &PgType) -> Box<dyn Family> {
    super::family(wire, Profile::Lake)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// Pushes values through a column; returns which of them fit. Whatever fits comes back bit for bit, whatever escapes comes
/// back from its text.
fn round_trip(wire: &PgType, values: &[Vec<u8>]) -> Vec<bool> {
    round_trip_in(wire, Profile::Lake, values)
}

fn round_trip_in(wire: &PgType, profile: Profile, values: &[Vec<u8>]) -> Vec<bool> {
    let family = super::family(wire, profile);
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

fn texts(values: &[&str]) -> Vec<Vec<u8>> {
    values.iter().map(|s| s.as_bytes().to_vec()).collect()
}

/// Bytes and texts taken from a server.
#[test]
fn addresses_and_bits() {
    for (wire, hex_bytes, text) in [
        (PgType::Inet, "02 08 00 04 0a000001", "10.0.0.1/8"),
        (PgType::Inet, "02 20 00 04 0a000001", "10.0.0.1"),
        (PgType::Cidr, "02 20 01 04 0a000001", "10.0.0.1/32"),
        (PgType::Inet, "03 80 00 10 20010db8000000000000000000000001", "2001:db8::1"),
        (PgType::Inet, "03 40 00 10 00000000000000000000ffff01020304", "::ffff:1.2.3.4/64"),
        (PgType::Inet, "03 80 00 10 00000000000000000000000000000001", "::1"),
        (PgType::Inet, "03 80 00 10 00000000000000000000000000000000", "::"),
        (PgType::Inet, "03 80 00 10 00010000000200000000000000030004", "1:0:2::3:4"),
        (PgType::Inet, "03 80 00 10 00010000000000020000000000030004", "1::2:0:0:3:4"),
        (PgType::Inet, "03 80 00 10 fe800000000000000000000000000000", "fe80::"),
        (PgType::Macaddr, "08002b010203", "08:00:2b:01:02:03"),
        (PgType::Macaddr8, "08002bfffe010203", "08:00:2b:ff:fe:01:02:03"),
        (PgType::Bit, "00000003 a0", "101"),
        (PgType::Varbit, "00000009 ff80", "111111111"),
        (PgType::Varbit, "00000000", ""),
    ] {
        assert_eq!(family(&wire).to_text(&hex(hex_bytes)).unwrap(), text);
        assert_eq!(round_trip(&wire, &[hex(hex_bytes)]), [true], "{text}");
    }
    assert!(family(&PgType::Bit).builder().push(Some(&hex("00000003 a1"))).is_err(), "a bit behind the end");
    assert!(family(&PgType::Inet).builder().push(Some(&hex("02 20 01 04 0a000001"))).is_err(), "a cidr");
}

#[test]
fn composites_keep_their_text() {
    let field = |name: &str, wire: PgType| CompositeField { name: name.into(), wire };
    let inner = PgType::Composite(vec![field("x", PgType::Float8), field("X", PgType::Interval)]);
    let outer = PgType::Composite(vec![
        field("id", PgType::Int4),
        field("t", PgType::Text),
        field("d", constrained(5, 2)),
        field("inner", inner.clone()),
        field("list", PgType::Array(Box::new(PgType::Int4))),
    ]);
    let values = texts(&[
        "(1,a,1.50,,)",
        "(,,,,)",
        r#"(1,"",NaN,,)"#,
        r#"(2,"q""\\ (,)",-0.01,"(1e+22,""1 mon -00:00:01"")","{1,NULL,3}")"#,
        r#"(2,x,0.00,"(NaN,)","{{1},{2}}")"#,
        r#"(2,x,1.5,,)"#,
    ]);
    // The third has a NaN, the fifth two dimensions, the sixth a numeric that no server writes so: they escape as a whole.
    assert_eq!(round_trip(&outer, &values), [true, true, false, true, false, false]);
    let DataType::Struct(fields) = family(&inner).arrow() else { panic!() };
    assert_eq!(fields.iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["x", "X__2"]);
    let of_domains = PgType::DomainArray(Box::new(PgType::Int4));
    assert_eq!(round_trip(&of_domains, &texts(&["{1,NULL,-5}", "{}", "[0:0]={1}", "{01}"])), [true, true, false, false]);
    let of_composites = PgType::Array(Box::new(inner));
    assert_eq!(round_trip(&of_composites, &texts(&[r#"{"(1,)",NULL,"(,\"2 days\")"}"#, r#"{{"(1,)"}}"#])), [true, false]);
}

#[test]
fn types_of_extensions() {
    let pairs = texts(&[r#""a"=>"1", "b\"c"=>NULL, "NULL"=>"NULL", ""=>"\\""#, "", r#""a"=>1"#]);
    assert_eq!(round_trip(&PgType::Hstore, &pairs), [true, true, false]);
    assert_eq!(round_trip(&PgType::Vector, &texts(&["[1,2.5,-0,1e-07]", "[0.099975586]", "[1.0]"])), [true, true, false]);
    assert_eq!(round_trip(&PgType::Sparsevec, &texts(&["{1:0.5,3:2}/5", "{}/3", "{1:1.0}/2"])), [true, true, false]);
    // POINT(1 2); the same with a reference; POINT ZM; a collection of a polygon; a reference that is not the column's.
    let geometries = texts(&[
        "0101000000000000000000F03F0000000000000040",
        "0101000020E6100000000000000000F03F0000000000000040",
        "01010000C0000000000000F03F000000000000004000000000000008400000000000001040",
        "01070000000100000001030000000100000004000000000000000000000000000000000000000000000000000000000000000000F03F000000000000F03F000000000000F03F00000000000000000000000000000000",
        "0101",
    ]);
    assert_eq!(round_trip(&PgType::Geometry { srid: 0 }, &geometries), [true, false, true, true, false]);
    assert_eq!(round_trip(&PgType::Geometry { srid: 4326 }, &geometries[..2]), [false, true]);
}

#[test]
fn native_logical_types() {
    let time = |t: i64| t.to_be_bytes().to_vec();
    assert_eq!(
        round_trip_in(&PgType::Time, Profile::Native, &[time(0), time(86_399_999_999), time(86_400_000_000)]),
        [true, true, false]
    );
    let uuid: Vec<u8> = (0..16).collect();
    assert_eq!(round_trip_in(&PgType::Uuid, Profile::Native, std::slice::from_ref(&uuid)), [true]);
    let list = PgType::Array(Box::new(PgType::Uuid));
    assert_eq!(round_trip_in(&list, Profile::Native, &[array(&[Some(&uuid), None], 1, 2950)]), [true]);
}

#[test]
fn bytes_of_no_encoding() {
    let raw = PgType::Raw(Box::new(PgType::Text));
    let family = family(&raw);
    let mut builder = family.builder();
    assert!(builder.push(Some(&[0xff, b'a'])).unwrap());
    let mut again = Vec::new();
    family.values(&builder.finish().unwrap()).unwrap().write(0, &mut again).unwrap();
    assert_eq!(again, [0xff, b'a']);
    assert!(family.to_text(&[0xff]).is_err(), "never a text that is another one");
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

    /// Whatever text the fields of a composite hold, the literal comes back.
    #[test]
    fn any_composite(fields in prop::collection::vec(prop::option::of("[ -~\u{e9}\n\t]{0,6}"), 1..4)) {
        let wire = PgType::Composite((0..fields.len()).map(|i| CompositeField { name: i.to_string(), wire: PgType::Text }).collect());
        let literal: Vec<String> = fields.iter().map(|f| f.as_ref().map_or(String::new(), |f| {
            let special = f.is_empty() || f.contains(|c: char| " \t\n\r\"\\(),".contains(c));
            if special { format!("\"{}\"", f.replace('\\', "\\\\").replace('"', "\"\"")) } else { f.clone() }
        })).collect();
        let text = format!("({})", literal.join(","));
        prop_assert_eq!(round_trip(&wire, &[text.into_bytes()]), [true]);
    }

    #[test]
    fn any_float_and_interval(bits in any::<u64>(), small in any::<u32>(), us in any::<i64>(), days in any::<i32>(), months in any::<i32>()) {
        let float = f64::from_bits(bits);
        if !float.is_nan() {
            round_trip(&PgType::Float8, &[bits.to_be_bytes().to_vec()]);
        }
        if !f32::from_bits(small).is_nan() {
            round_trip(&PgType::Float4, &[small.to_be_bytes().to_vec()]);
        }
        round_trip(&PgType::Interval, &[[us.to_be_bytes().to_vec(), days.to_be_bytes().to_vec(), months.to_be_bytes().to_vec()].concat()]);
    }

    #[test]
    fn any_address(bytes in any::<[u8; 16]>(), zeros in any::<u16>(), mask in 0u8..=128) {
        let mut bytes = bytes;
        for word in 0..8 {
            if zeros >> word & 1 == 1 {
                bytes[word * 2..word * 2 + 2].fill(0);
            }
        }
        round_trip(&PgType::Inet, &[[&[3, mask, 0, 16][..], &bytes].concat(), [&[2, mask / 4, 0, 4][..], &bytes[..4]].concat()]);
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
        let pair = PgType::Composite(vec![CompositeField { name: "a".into(), wire: PgType::Int4 }, CompositeField { name: "b".into(), wire: PgType::Text }]);
        for wire in [PgType::Inet, PgType::Cidr, PgType::Macaddr, PgType::Varbit, PgType::Hstore, PgType::Vector, PgType::Sparsevec,
                     PgType::Geometry { srid: 0 }, PgType::DomainArray(Box::new(PgType::Int4)), pair,
                     PgType::Numeric(None), constrained(10, 2), PgType::Array(Box::new(PgType::Int4)), PgType::Array(Box::new(PgType::Enum)),
                     PgType::Timetz, PgType::Time, PgType::Interval, PgType::Date, PgType::Uuid, PgType::Char, PgType::Jsonb] {
            let _ = family(&wire).builder().push(Some(&bytes));
            let _ = family(&wire).to_text(&bytes);
            let mut out = Vec::new();
            let _ = family(&wire).parse_text(&String::from_utf8_lossy(&bytes), &mut out);
        }
    }
}

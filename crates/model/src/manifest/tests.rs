use super::*;

fn sample() -> Manifest {
    Manifest::from_bytes(include_bytes!("../../golden/manifest_v1.json")).expect("the golden manifest reads")
}

/// Every past version keeps a golden file and is read for ever.
#[test]
fn reads_golden_v1() {
    let m = sample();
    assert_eq!(m.format, 1);
    assert_eq!(m.datasets().len(), 1);
    assert_eq!(m.datasets()[0].columns[1].wire, PgType::Array(Box::new(PgType::Enum)));
    assert_eq!(m.rows(), 3);
}

/// The head says what the whole says.
#[test]
fn the_head_is_that_of_the_whole() {
    let (m, bytes) = (sample(), sample().to_bytes().unwrap());
    let head = ManifestHead::from_bytes(&bytes).unwrap();
    assert_eq!((&head.id, &head.source, head.started, head.finished), (&m.id, &m.source, m.started, m.finished));
    assert_eq!((head.complete, head.server()), (m.complete, m.server()));
    assert!(!m.objects.is_empty() && head.keys().eq(m.keys()));
    assert!(head.objects.iter().map(|o| o.bytes).eq(m.objects.iter().map(|o| o.bytes)));
    for i in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[i] ^= 1;
        assert!(matches!(ManifestHead::from_bytes(&damaged), Err(ManifestError::Digest)), "byte {i}");
    }
}

#[test]
fn round_trips() {
    let m = sample();
    let bytes = m.to_bytes().unwrap();
    assert_eq!(Manifest::from_bytes(&bytes).unwrap(), m);
}

#[test]
fn any_flipped_bit_is_seen() {
    let bytes = sample().to_bytes().unwrap();
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 1 << (i % 8);
        assert!(matches!(Manifest::from_bytes(&damaged), Err(ManifestError::Digest)), "byte {i}");
    }
    for cut in [0, 1, 71, 72, bytes.len() - 1] {
        assert!(matches!(Manifest::from_bytes(&bytes[..cut]), Err(ManifestError::Digest)), "cut at {cut}");
    }
}

fn sealed(json: &str) -> Vec<u8> {
    let mut bytes = format!("{json}\n").into_bytes();
    let digest = Sha256Digest::of(&bytes);
    bytes.extend_from_slice(format!("sha256:{digest}\n").as_bytes());
    bytes
}

#[test]
fn unknown_fields_are_ignored_unknown_versions_refused() {
    let mut value: serde_json::Value = serde_json::to_value(sample()).unwrap();
    value["from-the-future"] = serde_json::json!({"x": 1});
    assert_eq!(Manifest::from_bytes(&sealed(&value.to_string())).unwrap(), sample());
    value["min-reader"] = serde_json::json!(2);
    let aborted = sealed(r#"{"aborted":"2026-11-21T02:00:00Z"}"#);
    let newer = [sealed(&value.to_string()), sealed(r#"{"min-reader":2,"objects":"elsewhere"}"#)];
    for bytes in &newer {
        assert!(matches!(Manifest::from_bytes(bytes), Err(ManifestError::TooNew { found: 2 })));
        assert!(matches!(ManifestHead::from_bytes(bytes), Err(ManifestError::TooNew { found: 2 })));
    }
    assert!(matches!(Manifest::from_bytes(&aborted), Err(ManifestError::Aborted)));
    assert!(matches!(ManifestHead::from_bytes(&aborted), Err(ManifestError::Aborted)));
    assert!(matches!(ManifestHead::from_bytes(&sealed("{}")), Err(ManifestError::Syntax(_))));
}

//! Who runs this: OS user, host, arguments. Never a secret.

use dozo_engine::this_host;
use dozo_model::Operator;

/// Returns the operator of this process.
pub(crate) fn this_operator() -> Operator {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    Operator {
        user: user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw())),
        host: this_host(),
        arguments: std::env::args().map(|a| mask(&a)).collect(),
    }
}

/// Masks the password of a URL or of a `key=value` string. Where there may be one, nothing behind it is kept.
fn mask(argument: &str) -> String {
    let masked = mask_pairs(argument);
    if let Some((scheme, rest)) = masked.split_once("://")
        && let Some((login, host)) = rest.rsplit_once('@')
    {
        let user = login.split(':').next().unwrap_or_default();
        return format!("{scheme}://{user}@{host}");
    }
    masked
}

fn mask_pairs(text: &str) -> String {
    match text.find("password") {
        // `password=x`, `password = 'x'`, `sslpassword=x`
        Some(at) if text[at + "password".len()..].trim_start().starts_with('=') => format!("{}password=***", &text[..at]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn no_password_survives() {
        for text in [
            "postgres://u:hunter2@h/d",
            "--to=postgres://u:hun%40ter2@h/d",
            "host=h password=hunter2",
            "postgres://h/d?password=hunter2",
            "postgres://u:hunter2@@h/d",
            "postgres://u@h/d?password=hunter2@x",
            "postgres://u@h/d?password=x@hunter2",
            "host=h password = hunter2",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2") && !masked.contains("ter2"), "{masked}");
        }
        assert_eq!(mask("shop@latest"), "shop@latest");
    }
}

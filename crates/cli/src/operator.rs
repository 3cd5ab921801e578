//! Who runs this: OS user, host, arguments. Never a secret.

use dozo_model::Operator;

/// Returns the operator of this process.
pub(crate) fn this_operator() -> Operator {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    Operator {
        user: user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw())),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        arguments: std::env::args().map(|a| mask(&a)).collect(),
    }
}

/// Masks the password of a URL or of a `key=value` string.
fn mask(argument: &str) -> String {
    if let Some((scheme, rest)) = argument.split_once("://")
        && let Some((login, host)) = rest.rsplit_once('@')
    {
        let user = login.split(':').next().unwrap_or_default();
        return format!("{scheme}://{user}@{}", mask_pairs(host));
    }
    mask_pairs(argument)
}

fn mask_pairs(text: &str) -> String {
    match text.find("password=") {
        Some(at) => format!("{}password=***", &text[..at]),
        None => text.to_owned(),
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
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2") && !masked.contains("ter2"), "{masked}");
        }
        assert_eq!(mask("shop@latest"), "shop@latest");
    }
}

//! Mail by SMTP, with TLS.

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use crate::channel::{Mail, MailTls};
use crate::message::Message;
use crate::{NotifyError, Result};

fn setup(error: &dyn std::fmt::Display) -> NotifyError {
    NotifyError::Setup(error.to_string())
}

pub(crate) async fn send(mail: &Mail, message: &Message) -> Result<()> {
    let mut letter = lettre::Message::builder()
        .from(mail.from.parse().map_err(|e| setup(&format!("`{}`: {e}", mail.from)))?)
        .subject(message.subject())
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        letter = letter.to(to.parse().map_err(|e| setup(&format!("`{to}`: {e}")))?);
    }
    let letter = letter.body(message.text()).map_err(|e| setup(&e))?;
    transport(mail)?.send(letter).await.map(drop).map_err(|e| {
        let text = crate::chain("", &e);
        if e.is_permanent() { NotifyError::Refused(text) } else { NotifyError::Unreached(text) }
    })
}

fn transport(mail: &Mail) -> Result<AsyncSmtpTransport<Tokio1Executor>> {
    let tls = match mail.tls {
        MailTls::Plain => Tls::None,
        MailTls::StartTls => Tls::Required(parameters(mail)?),
        MailTls::Implicit => Tls::Wrapper(parameters(mail)?),
    };
    let port = mail.port.unwrap_or(match mail.tls {
        MailTls::Implicit => 465,
        MailTls::StartTls => 587,
        MailTls::Plain => 25,
    });
    // Each part of the encryption is named above: nothing is left to a default.
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host).port(port).tls(tls);
    if let (Some(user), Some(password)) = (&mail.user, &mail.password) {
        builder = builder.credentials(Credentials::new(user.clone(), password.resolve()?));
    }
    Ok(builder.build())
}

fn parameters(mail: &Mail) -> Result<TlsParameters> {
    let mut builder = TlsParameters::builder(mail.host.clone()).certificate_store(CertificateStore::Default);
    if let Some(path) = &mail.ca_file {
        let pem = std::fs::read(path).map_err(|e| setup(&format!("{} cannot be read: {e}", path.display())))?;
        builder =
            builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| setup(&format!("{}: {e}", path.display())))?);
    }
    builder.build().map_err(|e| setup(&e))
}

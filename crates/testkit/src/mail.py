"""A mail server for tests: folder, certificate, key, port, STARTTLS or TLS from the start, letters to put off, user, password."""
import pathlib, ssl, sys, time
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

folder, certificate, key, port, starttls, refused, user, password = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)


class Keep:
    def __init__(self):
        self.seen = 0

    async def handle_DATA(self, server, session, envelope):
        self.seen += 1
        if self.seen <= int(refused):
            return "451 try again later"
        encrypted = session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None
        head = f"envelope: {envelope.mail_from} -> {', '.join(envelope.rcpt_tos)}\ntls: {encrypted}\n"
        pathlib.Path(folder, f"{self.seen:04}.eml").write_bytes(head.encode() + envelope.content)
        return "250 kept"


def authenticate(server, session, envelope, mechanism, data):
    good = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=good, handled=good)


# With TLS from the start aiosmtpd does not see that it is encrypted.
tls = dict(tls_context=context, require_starttls=True) if starttls == "true" else dict(ssl_context=context, auth_require_tls=False)
Controller(Keep(), hostname="127.0.0.1", port=int(port), authenticator=authenticate, auth_required=True, **tls).start()
print("ready", flush=True)
while True:
    time.sleep(3600)

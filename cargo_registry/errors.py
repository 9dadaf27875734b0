"""Every error raised on purpose, as a tree; the category above a class sets its HTTP status.

The text of an error is what cargo prints: a full sentence with names in backticks that says what to
do. No paths, no secrets.

RegistryError
├── Invalid              400  what was sent is wrong
│   ├── InvalidName, InvalidVersion, InvalidRequirement, InvalidManifest, InvalidTarball, InvalidPublish
│   ├── Disagreement          the publish JSON says other than the manifest
│   └── Refused               well-formed, but against this registry's policy
├── Unauthorized         401  who are you?
├── Forbidden            403  you may not
├── NotFound             404
├── Timeout              408  the caller stopped sending
├── Conflict             409  taken
├── TooLarge             413
├── TooMany              429  slow down, see `retry_after_s`
├── Damaged              500  what is stored is not what was published
├── Unavailable          503  try again, see `retry_after_s`
│   ├── UpstreamDown          of a mirror
│   └── OutOfSpace       507
└── ConfigError               the operator's file or environment; never reaches HTTP
"""


class RegistryError(Exception):
    """Base of everything raised on purpose."""


class Invalid(RegistryError):
    """What was sent is wrong; sending it again will not help."""


class InvalidName(Invalid):
    """A crate, feature, login or team name breaks the rules."""


class InvalidVersion(Invalid):
    """A version is not SemVer 2.0.0 as cargo reads it."""


class InvalidRequirement(Invalid):
    """A version requirement or a `cfg()` of a dependency cannot be parsed by cargo."""


class InvalidManifest(Invalid):
    """The tarball's `Cargo.toml` is malformed, or would make cargo reject the index entry."""


class InvalidTarball(Invalid):
    """The `.crate` file is malformed or hostile."""


class InvalidPublish(Invalid):
    """The body of a publish request is framed or shaped wrongly."""


class Disagreement(Invalid):
    """The publish request's JSON says other than the manifest in the tarball."""


class Refused(Invalid):
    """What was published is well-formed, but this registry's policy does not allow it."""


class Unauthorized(RegistryError):
    """No token, or one that is unknown, revoked or expired."""


class Forbidden(RegistryError):
    """The caller is known and may not do this."""


class NotFound(RegistryError):
    """No such crate, version, user, team or token."""


class Timeout(RegistryError):
    """The caller stopped sending in the middle of a request."""


class Conflict(RegistryError):
    """A name or version is taken, or the change would leave something without owner."""


class TooLarge(RegistryError):
    """More bytes than the limits allow."""


class TooMany(RegistryError):
    """More requests than the limits allow."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Damaged(RegistryError):
    """A stored tarball is missing or not what was published; it is not served."""


class Unavailable(RegistryError):
    """The database or a store does not answer now; nothing has changed."""

    retry_after_s = 5


class OutOfSpace(Unavailable):
    """The disk is full; nothing has changed."""


class UpstreamDown(Unavailable):
    """The upstream of a mirror does not give what is not stored here."""


class ConfigError(RegistryError):
    """The configuration file, the environment or an argument is wrong."""

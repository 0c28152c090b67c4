//! Finds the sandbox a call is for: field 1 of its first message, or field 1 of
//! `open`. Only as much of the request is read as that takes, and what was read
//! goes on to the agent unchanged.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use nullspace_proto::{Error, Reason, Result, id, limits};
use tonic::body::Body;

/// A message on the wire begins with a flag and four bytes of length.
const PREFIX: usize = 5;
/// Tag of field 1 with bytes inside.
const FIELD_1: u8 = 0x0a;
/// Prefix, two tags with lengths, and an id: more is never needed.
const ENOUGH: usize = PREFIX + 2 * (1 + 5) + id::MAX_LEN;

/// What was read of a request.
pub struct First {
    /// As the caller wrote it.
    pub sandbox_id: String,
    /// The bytes read so far.
    pub read: Bytes,
}

/// Reads until the sandbox id is known. `opens`: the first message is `open`.
pub async fn read(body: &mut Body, opens: bool) -> Result<First> {
    let reading = async {
        let mut read = BytesMut::new();
        loop {
            if let Some(sandbox_id) = parse(&read, opens)? {
                return Ok(First { sandbox_id, read: read.freeze() });
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        read.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => {
                    return Err(Error::new(Reason::InvalidRequest, "the request was cut before its first message"));
                }
                None => return Err(Error::new(Reason::InvalidRequest, "the request has no complete first message")),
            }
        }
    };
    let late = || {
        Error::new(
            Reason::DeadlineExceeded,
            format!("the first message did not come within {:?}", limits::FIRST_MESSAGE),
        )
    };
    tokio::time::timeout(limits::FIRST_MESSAGE, reading).await.map_err(|_| late())?
}

/// `None`: more bytes are needed.
fn parse(read: &[u8], opens: bool) -> Result<Option<String>> {
    if read.len() < PREFIX {
        return Ok(None);
    }
    if read[0] != 0 {
        return Err(Error::new(Reason::EncodingUnsupported, "compressed messages are not taken here"));
    }
    let length = (&read[1..PREFIX]).get_u32() as usize;
    let message = &read[PREFIX..read.len().min(PREFIX.saturating_add(length))];
    let outer = Field::first(message).map_err(|NotField1| missing(opens))?;
    let field = match outer {
        Some(open) if opens => Field::first(open.bytes).map_err(|NotField1| missing(opens))?,
        outer => outer,
    };
    match field {
        Some(field) if field.length > id::MAX_LEN => Err(too_long(opens, field.length)),
        Some(field) if field.length == 0 => Err(missing(opens)),
        Some(field) if field.bytes.len() == field.length => accept(field.bytes, opens).map(Some),
        _ if message.len() == length || read.len() >= ENOUGH => Err(missing(opens)),
        _ => Ok(None),
    }
}

struct NotField1;

/// Field 1 of a message: its length, and as much of it as has been read.
struct Field<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Field<'a> {
    /// `None`: more bytes are needed to know its length.
    fn first(message: &'a [u8]) -> Result<Option<Self>, NotField1> {
        let Some((&tag, mut rest)) = message.split_first() else { return Ok(None) };
        if tag != FIELD_1 {
            return Err(NotField1);
        }
        let mut length = 0;
        for shift in (0..35).step_by(7) {
            let Some((&byte, after)) = rest.split_first() else { return Ok(None) };
            rest = after;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(Self { bytes: &rest[..rest.len().min(length)], length }));
            }
        }
        Err(NotField1)
    }
}

fn name(opens: bool) -> &'static str {
    if opens { "open.sandbox_id" } else { "sandbox_id" }
}

fn missing(opens: bool) -> Error {
    Error::invalid_field(name(opens), "is required, and must come first in the request")
}

fn too_long(opens: bool, length: usize) -> Error {
    Error::invalid_field(name(opens), format!("{length} bytes are more than {}", id::MAX_LEN))
}

fn accept(bytes: &[u8], opens: bool) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid_field(name(opens), "is not UTF-8"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nullspace_proto::v1::{
        AttachCommandRequest, AttachOpen, CommandSpec, GetCommandRequest, attach_command_request::Frame,
    };

    fn framed(message: &impl prost::Message) -> Vec<u8> {
        let body = message.encode_to_vec();
        [&[0], (body.len() as u32).to_be_bytes().as_slice(), &body].concat()
    }

    /// However the bytes are split, the id is found, and never a wrong one.
    #[test]
    fn an_id_is_found_at_every_split() {
        let command = "c".repeat(300);
        let unary = framed(&GetCommandRequest { sandbox_id: "sb_1".into(), command_id: command.clone() });
        let spec = CommandSpec { tag: "t".repeat(5_000), ..Default::default() };
        let open =
            AttachOpen { sandbox_id: "sb_2".into(), command_id: command, start: Some(spec), ..Default::default() };
        let stream = framed(&AttachCommandRequest { frame: Some(Frame::Open(open)) });
        for (bytes, opens, id) in [(unary, false, "sb_1"), (stream, true, "sb_2")] {
            let found: Vec<_> = (0..=bytes.len()).map(|end| parse(&bytes[..end], opens).ok().flatten()).collect();
            let first = found.iter().position(Option::is_some).unwrap_or(usize::MAX);
            assert!(first <= ENOUGH);
            assert!(found[first..].iter().all(|found| found.as_deref() == Some(id)));
        }
    }

    #[test]
    fn a_request_without_an_id_in_front_is_refused() {
        let late = [0, 0, 0, 0, 9, 0x12, 1, b'c', 0x0a, 4, b's', b'b', b'_', b'1'];
        assert!(parse(&late, false).is_err());
        assert!(parse(&framed(&GetCommandRequest::default()), false).is_err());
        assert!(
            parse(&framed(&GetCommandRequest { sandbox_id: "s".repeat(65), ..Default::default() }), false).is_err()
        );
        assert!(
            parse(&framed(&AttachCommandRequest { frame: Some(Frame::Open(AttachOpen::default())) }), true).is_err()
        );
        assert!(parse(&[1, 0, 0, 0, 2, 0x0a, 0], false).is_err());
    }
}

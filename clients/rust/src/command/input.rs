//! Where one writer's input to one command goes on.

use bytes::Bytes;
use nullspace_proto::{id, v1::WriteCommandInputRequest};

use crate::{
    connection::Connection,
    error::{Error, Result},
    limits::INPUT_CHUNK_BYTES,
    method::WRITE_COMMAND_INPUT,
};

/// A place in a command's input. After a call whose outcome is unknown the place
/// is unknown too; then the next one asks first, so that nothing is written twice
/// or swallowed.
#[derive(Debug)]
pub(super) struct InputCursor {
    client_id: String,
    offset: i64,
    unsure: bool,
}

impl Default for InputCursor {
    fn default() -> Self {
        Self { client_id: id::ulid(), offset: 0, unsure: false }
    }
}

impl InputCursor {
    /// Writes all of `data`, and closes the input if that is asked for.
    pub async fn write(
        &mut self,
        connection: &Connection,
        (sandbox_id, command_id): (&str, &str),
        data: Bytes,
        close: bool,
    ) -> Result<()> {
        let request = |data: Bytes, close: bool, cursor: &Self| WriteCommandInputRequest {
            sandbox_id: sandbox_id.to_owned(),
            command_id: command_id.to_owned(),
            client_id: cursor.client_id.clone(),
            offset: cursor.offset,
            data,
            close,
        };
        if self.unsure {
            let asked = request(Bytes::new(), false, self);
            self.send(connection, asked).await?;
        }
        let end = self.offset + data.len() as i64;
        loop {
            let written = data.len() - usize::try_from(end - self.offset).unwrap_or_default();
            let piece = data.slice(written..data.len().min(written + INPUT_CHUNK_BYTES));
            let last = written + piece.len() == data.len();
            let asked = request(piece, close && last, self);
            self.send(connection, asked).await?;
            if self.offset >= end {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, connection: &Connection, request: WriteCommandInputRequest) -> Result<()> {
        let (empty, before) = (request.data.is_empty(), self.offset);
        self.unsure = true;
        let response = connection.call(WRITE_COMMAND_INPUT, request, None).await?;
        self.offset = self.offset.max(response.accepted_offset);
        self.unsure = false;
        if !empty && self.offset == before {
            return Err(Error::invalid_response("input was accepted, and yet none of it"));
        }
        Ok(())
    }
}

//! Follows a command to its end, over as many streams as that takes.

use std::{pin::Pin, time::Duration};

use async_stream::try_stream;
use futures_core::Stream;
use nullspace_proto::v1::{AttachCommandRequest, AttachCommandResponse, attach_command_response::Frame as Answer};
use prost::Message;
use tokio::time::sleep;

use super::{Attachment, Event};
use crate::{
    connection::{Connection, Duplex, Times},
    error::{Error, Result},
    limits::COMMAND_SILENCE,
    method::{ATTACH_COMMAND, Method},
    retry::StreamRetries,
};

/// Events of a command, to its end or an error.
pub(crate) type Following = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// Starts or joins a command and follows it to its end. An event counts as
/// taken when the next one is asked for.
pub(crate) fn attached(connection: Connection, mut attachment: Attachment) -> Following {
    Box::pin(try_stream! {
        let mut retries = StreamRetries::new();
        loop {
            let opening = connection.converse(ATTACH_COMMAND, attachment.open(), Times::silence(COMMAND_SILENCE));
            let error = match opening.await {
                Err(error) => error,
                Ok(mut stream) => loop {
                    let frame = match turn(&mut stream, &mut attachment).await {
                        Ok(Some(frame)) => frame,
                        Ok(None) => break cut_short(),
                        Err(error) => break error,
                    };
                    match &frame {
                        Answer::Started(_) => retries.joined(),
                        _ => retries.progress(),
                    }
                    if let Some(event) = attachment.take(frame)? {
                        yield event;
                        if attachment.log.ended {
                            return;
                        }
                    }
                },
            };
            sleep(retries.pause(error, connection.reached())?).await;
        }
    })
}

/// The next frame; sends what is due meanwhile.
async fn turn(
    stream: &mut Duplex<AttachCommandRequest, AttachCommandResponse>,
    attachment: &mut Attachment,
) -> Result<Option<Answer>> {
    // Counted once for all that happens below: sending is no sign of life.
    let mut silent_at = stream.frames.silent_at();
    let mut open = true;
    loop {
        let due = open && attachment.is_due();
        let wants_more = attachment.input.as_ref().is_some_and(|input| input.wants_more());
        tokio::select! {
            biased;
            permit = stream.outbox.reserve(), if due => match permit {
                Ok(permit) => if let Some(frame) = attachment.next() { permit.send(frame) },
                // The stream is over; its frames say why.
                Err(_) => open = false,
            },
            next = stream.frames.next_by(silent_at) => match next? {
                // A frame of a later server.
                Some(AttachCommandResponse { frame: None }) => silent_at = stream.frames.silent_at(),
                Some(AttachCommandResponse { frame: Some(frame) }) => return Ok(Some(frame)),
                None => return Ok(None),
            },
            pulled = pull(attachment), if wants_more => pulled?,
        }
    }
}

async fn pull(attachment: &mut Attachment) -> Result<()> {
    match &mut attachment.input {
        Some(input) => input.pull().await,
        None => std::future::pending().await,
    }
}

/// What can be read over as many streams as that takes.
pub(crate) trait Readable: Send + 'static {
    /// Opens a stream.
    type Request: Message + Default + Clone + 'static;
    /// A frame of it.
    type Response: Message + Default + 'static;
    /// The call that opens a stream.
    const METHOD: Method<Self::Request, Self::Response>;
    /// How long a stream may be silent.
    const SILENCE: Duration;

    /// The request, from where reading stopped.
    fn open(&self) -> Self::Request;
    /// What a frame of the server means.
    fn take(&mut self, response: Self::Response) -> Result<Option<Event>>;
    /// Whether all has come that was asked for.
    fn is_over(&self) -> bool;
}

/// Reads the output of a command, or runs one, to the end that was asked for.
pub(crate) fn read<R: Readable>(connection: Connection, mut source: R) -> Following {
    Box::pin(try_stream! {
        let mut retries = StreamRetries::new();
        loop {
            retries.opened();
            let opening = connection.read(R::METHOD, source.open(), Times::silence(R::SILENCE));
            let error = match opening.await {
                Err(error) => error,
                Ok(mut frames) => loop {
                    let response = match frames.next().await {
                        Ok(Some(response)) => response,
                        Ok(None) => break cut_short(),
                        Err(error) => break error,
                    };
                    retries.progress();
                    if let Some(event) = source.take(response)? {
                        yield event;
                    }
                    if source.is_over() {
                        return;
                    }
                },
            };
            sleep(retries.pause(error, connection.reached())?).await;
        }
    })
}

/// A stream that ended well, and yet did not say how the command ended.
pub(crate) fn cut_short() -> Error {
    Error::invalid_response("the stream ended without the command's exit")
}

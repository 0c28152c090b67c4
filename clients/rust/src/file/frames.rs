//! Frames of files that are read and written.

use bytes::{Bytes, BytesMut};
use nullspace_proto::v1::{
    ReadFileResponse, WriteFileFinish, WriteFileRequest, read_file_response::Frame as Read,
    write_file_request::Frame as Write,
};

use crate::{
    FileInfo,
    error::{Error, Result},
    limits::FILE_CHUNK_BYTES,
};

/// Takes the frames of a read, and knows whether all have come.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    pub info: Option<FileInfo>,
    size: i64,
    pub ended: bool,
}

impl FrameReader {
    /// The bytes of a frame; may be none.
    pub fn take(&mut self, response: ReadFileResponse) -> Result<Bytes> {
        match response.frame {
            Some(Read::Info(info)) => self.info = Some(info.into()),
            Some(Read::Data(data)) => {
                self.size += data.len() as i64;
                return Ok(data);
            }
            Some(Read::End(end)) if end.size_bytes == self.size => self.ended = true,
            Some(Read::End(end)) => {
                let message = format!("{} of {} bytes of the file came", self.size, end.size_bytes);
                return Err(Error::invalid_response(message));
            }
            None => {}
        }
        Ok(Bytes::new())
    }

    /// The error for a stream that ended before the file did.
    pub fn cut_short(&self) -> Error {
        Error::invalid_response(format!("the stream ended after {} bytes, before the end of the file", self.size))
    }
}

/// Makes frames of what is written, as large as they may be.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    pending: BytesMut,
    size: i64,
}

impl FrameWriter {
    /// The next frame that is full with `data`, of which it takes as much.
    pub fn full(&mut self, data: &mut Bytes) -> Option<WriteFileRequest> {
        if self.pending.is_empty() && data.len() >= FILE_CHUNK_BYTES {
            let frame = data.split_to(FILE_CHUNK_BYTES);
            return Some(self.frame(frame));
        }
        let room = FILE_CHUNK_BYTES - self.pending.len();
        self.pending.extend_from_slice(&data.split_to(data.len().min(room)));
        if self.pending.len() < FILE_CHUNK_BYTES {
            return None;
        }
        let frame = self.pending.split().freeze();
        Some(self.frame(frame))
    }

    /// What is left, and the frame that makes the file appear.
    pub fn finish(mut self) -> impl Iterator<Item = WriteFileRequest> {
        let rest = self.pending.split().freeze();
        let rest = (!rest.is_empty()).then(|| self.frame(rest));
        let finish = Write::Finish(WriteFileFinish { size_bytes: self.size });
        rest.into_iter().chain([WriteFileRequest { frame: Some(finish) }])
    }

    fn frame(&mut self, data: Bytes) -> WriteFileRequest {
        self.size += data.len() as i64;
        WriteFileRequest { frame: Some(Write::Data(data)) }
    }
}

#[cfg(test)]
mod tests {
    use nullspace_proto::v1::ReadFileEnd;

    use super::*;

    fn sizes(pieces: &[usize]) -> (Vec<usize>, i64) {
        let (mut writer, mut sizes, mut total) = (FrameWriter::default(), Vec::new(), -1);
        let mut frames = Vec::new();
        for &piece in pieces {
            let mut data = Bytes::from(vec![0; piece]);
            while let Some(frame) = writer.full(&mut data) {
                frames.push(frame);
            }
        }
        frames.extend(writer.finish());
        for frame in frames {
            match frame.frame.unwrap() {
                Write::Data(data) => sizes.push(data.len()),
                Write::Finish(finish) => total = finish.size_bytes,
                Write::Open(_) => unreachable!(),
            }
        }
        (sizes, total)
    }

    #[test]
    fn frames_are_full_and_their_sum_is_told() {
        const FULL: usize = FILE_CHUNK_BYTES;
        assert_eq!(sizes(&[]), (vec![], 0));
        assert_eq!(sizes(&[0, 3, 4]), (vec![7], 7));
        assert_eq!(sizes(&[FULL * 2 + 5]), (vec![FULL, FULL, 5], FULL as i64 * 2 + 5));
        assert_eq!(sizes(&[10, FULL, 10]), (vec![FULL, 20], FULL as i64 + 20));
        assert_eq!(sizes(&[FULL]), (vec![FULL], FULL as i64));
    }

    #[test]
    fn a_read_that_lacks_bytes_is_an_error() {
        let frame = |frame| ReadFileResponse { frame: Some(frame) };
        let mut reader = FrameReader::default();
        assert_eq!(reader.take(frame(Read::Data("abc".into()))).unwrap(), "abc");
        assert!(reader.take(frame(Read::End(ReadFileEnd { size_bytes: 4 }))).is_err());
        assert!(!reader.ended);
        reader.take(frame(Read::End(ReadFileEnd { size_bytes: 3 }))).unwrap();
        assert!(reader.ended);
    }
}

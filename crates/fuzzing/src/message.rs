//! Messages of a link and the frames that carry them.

use wire::delta::TopologyNews;
use wire::gob::StreamReader;
use wire::message::{FrameReader, Message, MessageError, encode_frame, encode_frame_v1};

/// Frames come out the same however the bytes were cut, frames encode to the bytes they came from,
/// and a decoded message survives being encoded.
pub fn run(bytes: &[u8]) {
    read_message(bytes);
    read_news(bytes);
    let Some((&piece, stream)) = bytes.split_first() else {
        return;
    };
    read_frames(stream, usize::from(piece).max(1));
    read_frames_v1(stream);
}

fn read_message(bytes: &[u8]) {
    match Message::decode(bytes) {
        Ok(message) => {
            let again = message.encode();
            assert_eq!(Message::decode(&again).as_ref(), Ok(&message));
            assert_eq!(
                Message::decode(&again).map(|message| message.encode()),
                Ok(again)
            );
        }
        Err(MessageError::Blank) => assert!(bytes.is_empty()),
        Err(MessageError::Envelope(error)) => assert!(!error.to_string().is_empty()),
    }
}

/// What peers that understand it say of the topology shortly.
fn read_news(bytes: &[u8]) {
    if let Ok(news) = TopologyNews::decode(bytes) {
        assert_eq!(TopologyNews::decode(&news.encode()), Ok(news));
    }
}

fn read_frames(stream: &[u8], piece_bytes: usize) {
    let mut whole = FrameReader::new();
    whole.push(stream);
    let mut pieces = FrameReader::new();
    let mut seen = 0;
    for piece in stream.chunks(piece_bytes) {
        pieces.push(piece);
        loop {
            let next = pieces
                .next_frame()
                .map(|frame| frame.map(|frame| frame.to_vec()));
            match next {
                Ok(None) => break,
                Ok(Some(content)) => {
                    let same = whole
                        .next_frame()
                        .map(|frame| frame.map(|frame| frame.to_vec()));
                    assert_eq!(same.as_ref(), Ok(&Some(content.clone())));
                    let again = encode_frame(&content).expect("as long as it came");
                    assert_eq!(again, stream[seen..seen + again.len()]);
                    seen += again.len();
                    read_message(&content);
                }
                Err(error) => {
                    assert_eq!(whole.next_frame().map(|_| ()), Err(error));
                    return;
                }
            }
        }
    }
    assert_eq!(pieces.buffered_bytes(), stream.len() - seen);
}

fn read_frames_v1(stream: &[u8]) {
    let mut reader = StreamReader::new();
    reader.push(stream);
    while let Ok(Some(value)) = reader.next_value() {
        let Ok(content) = value.as_bytes("message") else {
            continue;
        };
        let mut again = StreamReader::new();
        again.push(&encode_frame_v1(content));
        let value = again.next_value().expect("we encode what we decode");
        assert_eq!(
            value.map(|value| value.as_bytes("message")),
            Some(Ok(content))
        );
        read_message(content);
    }
}

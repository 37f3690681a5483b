//! tungstenite, which tokio-tungstenite and most of Rust's servers and games are built on.
//! It is one thread: it waits for a frame for some milliseconds, then for a command.

use std::io::{BufRead, ErrorKind};
use std::net::TcpStream;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use tungstenite::client::{client, IntoClientRequest};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::Frame;
use tungstenite::{Error, Message, WebSocket};

const TURN: Duration = Duration::from_millis(5);

type Failure = Box<dyn std::error::Error>;

fn main() {
    if let Err(error) = run() {
        println!("error {error}");
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut request = arguments[0].as_str().into_client_request()?;
    if let Some(offered) = arguments.get(1) {
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered.parse()?);
    }
    let host = request.uri().authority().unwrap().to_string();
    let stream = TcpStream::connect(host)?;
    let (mut socket, response) = client(request, stream)?;
    socket.get_ref().set_read_timeout(Some(TURN))?;
    let selected = response.headers().get("Sec-WebSocket-Protocol");
    println!("open {}", selected.map_or(Ok("-"), |name| name.to_str())?);
    let commands = read_commands();
    loop {
        match socket.read() {
            Ok(message) => say(message),
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok(line) = commands.try_recv() {
            obey(&mut socket, &line)?;
        }
    }
}

fn read_commands() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    receiver
}

fn obey(socket: &mut WebSocket<TcpStream>, line: &str) -> Result<(), Failure> {
    let mut words = line.split(' ');
    let command = words.next().unwrap();
    let texts: Vec<Vec<u8>> = words.map(from_hex).collect();
    match command {
        "send" => socket.send(Message::text(String::from_utf8(texts[0].clone())?))?,
        "fragments" => {
            for (number, text) in texts.iter().enumerate() {
                let data = if number == 0 { Data::Text } else { Data::Continue };
                let last = number == texts.len() - 1;
                socket.send(Message::Frame(Frame::message(text.clone(), OpCode::Data(data), last)))?;
            }
        }
        "ping" => socket.send(Message::Ping(Vec::new().into()))?,
        _ => socket.close(None)?,
    }
    Ok(())
}

fn say(message: Message) {
    match message {
        Message::Text(text) => println!("text {}", to_hex(text.as_bytes())),
        Message::Pong(_) => println!("pong"),
        Message::Close(Some(frame)) => {
            let reason = to_hex(frame.reason.as_bytes());
            println!("close {} {}", u16::from(frame.code), if reason.is_empty() { "-" } else { &reason });
        }
        Message::Close(None) => println!("close - -"),
        _ => {}
    }
}

fn from_hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

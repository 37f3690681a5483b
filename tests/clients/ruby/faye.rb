# faye-websocket's client, as the faye-websocket of npm. It sends whole messages only.

require 'faye/websocket'
require 'eventmachine'

def say(*words)
  $stdout.puts(words.join(' '))
  $stdout.flush
end

def hex(text)
  text.to_s.b.unpack1('H*')
end

def obey(socket, command, *words)
  case command
  when 'send' then socket.send([words[0]].pack('H*').force_encoding('UTF-8'))
  when 'ping' then socket.ping { say('pong') }
  else socket.close
  end
end

# Reads lines from the driver; EventMachine's LineProtocol gives some twice.
module Commands
  def initialize(socket)
    super()
    @socket = socket
    @received = String.new
  end

  def receive_data(data)
    @received << data
    while (line = @received.slice!(/\A.*\n/))
      obey(@socket, *line.split)
    end
  end

  def unbind
    EM.stop
  end
end

url, *offered = ARGV
EM.run do
  socket = Faye::WebSocket::Client.new(url, offered)
  socket.on(:open) do
    say('open', socket.protocol.to_s.empty? ? '-' : socket.protocol)
    EM.attach($stdin, Commands, socket)
  end
  socket.on(:message) { |message| say('text', hex(message.data)) }
  socket.on(:error) { |error| say('error', error.message) }
  socket.on(:close) do |closed|
    say('close', closed.code, closed.reason.to_s.empty? ? '-' : hex(closed.reason))
    EM.stop
  end
end

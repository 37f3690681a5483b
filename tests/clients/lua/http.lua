-- lua-http's http.websocket.

local cqueues = require "cqueues"
local socket = require "cqueues.socket"
local websocket = require "http.websocket"

local function say(...)
    print(table.concat({ ... }, " "))
    io.stdout:flush()
end

local function to_hex(text)
    return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function from_hex(digits)
    return (digits:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function obey(ws, line)
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    if words[1] == "send" then
        ws:send(from_hex(words[2]), "text")
    elseif words[1] == "fragments" then
        for i = 2, #words do
            ws:send_frame({
                FIN = i == #words, MASK = true, opcode = i == 2 and 0x1 or 0x0, data = from_hex(words[i]),
                RSV1 = false, RSV2 = false, RSV3 = false,
            })
        end
    elseif words[1] == "ping" then
        ws:send_ping()
    else
        ws:close()
    end
end

local url, offered = arg[1], arg[2]
local ws = websocket.new_from_uri(url, offered and { offered })
local loop = cqueues.new()

loop:wrap(function()
    local ok, err = ws:connect()
    if not ok then return say("error", tostring(err)) end
    say("open", ws.protocol or "-")
    loop:wrap(function()
        local commands = socket.fdopen(0)
        commands:setmaxline(1048576) -- longer ones would come in parts
        while true do -- Lua 5.1 cannot wait inside of a for
            local line = commands:read("*l")
            if not line then os.exit(0) end
            obey(ws, line)
        end
    end)
    repeat
        local text, err = ws:receive()
        if text then say("text", to_hex(text)) end
    until not text
    local reason = ws.got_close_message or ""
    say("close", ws.got_close_code or "-", reason ~= "" and to_hex(reason) or "-")
    os.exit(0)
end)
assert(loop:loop())

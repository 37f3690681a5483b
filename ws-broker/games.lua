-- What game servers ask for, decided at one place and in one moment for all brokers. What it changes
-- and what the group is told of it happen together.
--
-- KEYS  1 the scheduler   2 the group's log   3 the balances   4 the saved answer of this request
--       5 the list of brokers
-- ARGV  1 what is asked   2 a name for the request, a new one for each; the same when it is sent again
--       3 prefix of the games' keys   4, 5 prefixes of the brokers' keys: users online, nicknames
--       6 LOG_MAXLEN   7 how many games are kept   8 players of one game   9.. what the request says
--
-- All keys have the same hash tag. Returns a list: "done" or "refused", and then what there is to say.

local scheduler, log, balances, saved_answer, brokers = unpack(KEYS)
local verb, name, game_key, online_key, nickname_key = unpack(ARGV)
local log_maxlen, kept, players_max = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local given = {unpack(ARGV, 9)}

local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now_ms = now_s * 1000 + math.floor(time[2] / 1000)

local told, told_as = 0, nil
local function tell(frame)
    told = told + 1
    told_as = redis.call('XADD', log, 'MAXLEN', '~', log_maxlen, '*', 'k', name .. '-' .. told, 'm', frame)
end

-- Some of the users online, each as likely as any other, as {id, nickname, id, nickname, ...}.
local function pick_players()
    local sets, total, picked, met = {}, 0, {}, {}
    for _, broker in ipairs(redis.call('ZRANGE', brokers, 0, -1)) do
        local size = redis.call('SCARD', online_key .. broker)
        if size > 0 then
            sets[#sets + 1] = {broker = broker, size = size}
            total = total + size
        end
    end
    local function take(broker, id)
        if not met[id] and #picked < 2 * players_max then
            met[id] = true
            picked[#picked + 1] = id
            picked[#picked + 1] = redis.call('HGET', nickname_key .. broker, id) or id
        end
    end
    math.randomseed(now_s % 1000 * 1000000 + tonumber(time[2]))
    if total <= 100 * players_max then
        local all = {}
        for _, set in ipairs(sets) do
            for _, id in ipairs(redis.call('SMEMBERS', online_key .. set.broker)) do
                all[#all + 1] = {set.broker, id}
            end
        end
        for i = #all, 1, -1 do
            local at = math.random(i)
            all[i], all[at] = all[at], all[i]
            take(all[i][1], all[i][2])
        end
        return picked
    end
    -- So many that drawing one twice is rare.
    for _ = 1, 10 * players_max do
        local at = math.random(total)
        for _, set in ipairs(sets) do
            if at <= set.size then
                take(set.broker, redis.call('SRANDMEMBER', online_key .. set.broker))
                break
            end
            at = at - set.size
        end
    end
    return picked
end

-- Tells of a game with these players, and of whatever else there is to say, and keeps it. Here and
-- below everything is read first and telling is the first change: where something is of a wrong type,
-- nothing has changed.
local function prepare(players, offset, more)
    local number = tonumber(redis.call('HGET', scheduler, 'newest') or '0') + 1
    tell('{"info":"update"}')
    if more then
        tell(more)
    end
    redis.call('HSET', scheduler, 'newest', number)
    local fields = {'at', now_s, 'offset', offset}
    for i = 1, #players, 2 do
        local place = (i + 1) / 2
        for _, text in ipairs({'player' .. place, players[i], 'nickname' .. place, players[i + 1]}) do
            fields[#fields + 1] = text
        end
    end
    redis.call('HSET', game_key .. number, unpack(fields))
    redis.call('DEL', game_key .. (number - kept))
end

local function money(hundredths)
    local sign, amount = '', hundredths
    if hundredths < 0 then
        sign, amount = '-', -hundredths
    end
    local rest = amount % 100
    if rest % 10 == 0 then
        return string.format('%s%d.%d', sign, math.floor(amount / 100), rest / 10)
    end
    return string.format('%s%d.%02d', sign, math.floor(amount / 100), rest)
end

local answer = {}

-- Milliseconds until the next game is due; -1: the scheduler is stopped, -2: it was never started.
function answer.tick()
    local state = redis.call('HMGET', scheduler, 'running', 'period', 'offset', 'due')
    if state[1] ~= '1' then
        return {'done', state[2] and '-1' or '-2'}
    end
    local period_ms, due = tonumber(state[2]) * 1000, tonumber(state[4])
    if now_ms >= due then
        prepare(pick_players(), state[3])
        -- Whatever was missed is not made up for.
        due = due + period_ms * (math.floor((now_ms - due) / period_ms) + 1)
        redis.call('HSET', scheduler, 'due', due)
    elseif due - now_ms > period_ms then
        -- The clock was set back, or it is another server's.
        due = now_ms + period_ms
        redis.call('HSET', scheduler, 'due', due)
    end
    return {'done', string.format('%d', due - now_ms)}
end

local function was_started()
    return redis.call('HEXISTS', scheduler, 'period') == 1
end

local never_started = {'refused', 'the scheduler was never started: send scheduler_start first'}

function answer.start()
    local period, offset = given[1], given[2]
    prepare(pick_players(), offset, '{"info":"scheduler is running"}')
    redis.call('HSET', scheduler, 'running', '1', 'period', period, 'offset', offset, 'due',
        now_ms + tonumber(period) * 1000)
    return {'done'}
end

function answer.stop()
    if not was_started() then
        return never_started
    end
    tell('{"info":"scheduler is stopped"}')
    redis.call('HSET', scheduler, 'running', '0')
    return {'done'}
end

function answer.info()
    local state = redis.call('HMGET', scheduler, 'running', 'period', 'offset')
    if state[1] == '1' then
        tell('{"info":"scheduler is running","period":' .. state[2] .. ',"offset":' .. state[3] .. '}')
    else
        tell('{"info":"scheduler is not running"}')
    end
    return {'done'}
end

function answer.update()
    tell('{"info":"update"}')
    return {'done'}
end

-- Given: the game's number, and for each place the player's id, what is won, and the line of the frame
-- up to the balance.
answer['end'] = function()
    local game = game_key .. given[1]
    if not was_started() then
        return never_started
    end
    local fields, state = redis.call('HGETALL', game), {}
    for i = 1, #fields, 2 do
        state[fields[i]] = fields[i + 1]
    end
    if not state.at then
        return {'refused', 'id: there is no such game'}
    end
    if state.ended then
        return {'refused', 'id: this game has ended already'}
    end
    local plays, lines = {}, {}
    for field, id in pairs(state) do
        if string.match(field, '^player') then
            plays[id] = true
        end
    end
    for i = 2, #given, 3 do
        if not plays[given[i]] then
            return {'refused', 'leaderboard[' .. (i - 2) / 3 .. '].id: not a player of this game'}
        end
    end
    local balances_now = {}
    for i = 2, #given, 3 do
        local before = redis.call('HGET', balances, given[i])
        local now = tonumber(before or '0')
        if not now or now ~= math.floor(now) or math.abs(now) > 2 ^ 52 then
            return redis.error_reply('ERR the balance in leaderboard[' .. (i - 2) / 3 .. '] is no whole number')
        end
        now = now + given[i + 1]
        balances_now[#balances_now + 1] = given[i]
        balances_now[#balances_now + 1] = string.format('%.0f', now)
        lines[#lines + 1] = given[i + 2] .. money(now) .. '}'
    end
    tell('{"action":"balance_update","data":[' .. table.concat(lines, ',') .. ']}')
    redis.call('HSET', game, 'ended', '1')
    redis.call('HSET', balances, unpack(balances_now))
    return {'done'}
end

function answer.online()
    local keys, list = {}, {'done'}
    for _, broker in ipairs(redis.call('ZRANGE', brokers, 0, -1)) do
        keys[#keys + 1] = online_key .. broker
    end
    for _, id in ipairs(#keys > 0 and redis.call('SUNION', unpack(keys)) or {}) do
        list[#list + 1] = id
    end
    return list
end

-- The newest game's number, and its fields and their values.
function answer.newest()
    local number = redis.call('HGET', scheduler, 'newest')
    local list = {'done', number or '0'}
    for _, text in ipairs(number and redis.call('HGETALL', game_key .. number) or {}) do
        list[#list + 1] = text
    end
    return list
end

local changes = {start = true, stop = true, info = true, update = true, ['end'] = true}
local saved = changes[verb] and redis.call('GET', saved_answer)
if saved then
    return cjson.decode(saved)
end
local reply = answer[verb]()
-- Where what was told stands in the log.
if changes[verb] and reply[1] == 'done' then
    reply[2] = told_as
end
if changes[verb] and not reply.err then
    redis.call('SET', saved_answer, cjson.encode(reply), 'PX', 60000)
end
return reply

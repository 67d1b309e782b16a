"""Adjectives, adverbs and verbs of the generated prose, by use; "_" stands for a blank.

Verbs are given in the base form; a particle follows it ("set_aside").
"""

WORDS = {
    # Adjectives.
    "person_adj": """
absent-minded affable aged ambitious amiable anxious arrogant awkward bashful boastful bold brash
brave brisk broad-shouldered burly cautious charming cheerful clever clumsy courteous cross-eyed
cunning curious dark-haired deaf devout dignified diligent dour drowsy earnest easygoing
eccentric elderly eloquent energetic excitable famous fastidious fearless fierce fiery foolish
forgetful frail frugal garrulous generous gentle glum good-natured grumbling gullible
handsome hardy haughty hesitant honest hot-tempered humble idle impatient impulsive ingenious
inquisitive jovial kindly lanky lazy learned lively lonely loyal meek melancholy merry methodical
miserly modest mournful nervous nimble obliging obstinate old outspoken pale patient
penniless pensive pious plain-spoken plump polite practical prim prosperous proud prudent
quarrelsome quick-witted quiet reckless reserved restless retired robust rosy ruddy sceptical
scholarly selfish sensible sentimental serious sharp-eyed shrewd shy silent silver-haired
simple sleepy sly sober solemn solitary stern stooping stout stubborn sturdy sullen superstitious
sunburnt surly suspicious talkative tall tender-hearted thin thoughtful thrifty timid tireless
unlucky vain venerable vigilant wary weary weather-beaten well-read wily wise wiry wistful witty
worldly young youthful
""",
    "thing_adj": """
ancient antique awkward battered beautiful bent blackened borrowed bright broken bulky
careworn chipped clumsy coarse common costly cracked crooked curious damp dainty dented discoloured
dusty elaborate elegant enormous expensive faded familiar fine flimsy foreign forgotten fragile
gaudy gilded gleaming greasy half-finished handmade handsome hefty heavy homemade humble imported
inexpensive large light little lopsided mended misshapen mouldy muddy narrow neglected new
odd old old-fashioned ordinary ornate painted peculiar plain polished precious
pretty rare rickety rough rusty scratched second-hand shabby shapeless shiny simple slender small
smooth soiled solid spare splendid splintered spotless squat stained stolen stout strange
sturdy tarnished tattered tiny twisted ugly unfinished unlabelled unusual unwieldy useful
useless valuable varnished weathered well-made wobbly worn worthless
""",
    "place_adj": """
abandoned airy ancient barren bleak busy bustling calm charming cheerless crowded crumbling
dark deserted desolate dim dismal draughty dreary drowsy dusty eerie empty enchanting famous
fertile forbidding forlorn forsaken gloomy grassy hospitable hushed inhospitable isolated
leafy little lonely lovely misty modest mossy muddy narrow neat neglected noisy noiseless overgrown
peaceful picturesque pleasant prosperous quaint quiet remote rocky rugged rustic sandy secluded
secret serene shady sheltered silent slippery sleepy snowbound solitary sombre steep sunlit
tidy tranquil treacherous unfamiliar unkempt vast wild windswept winding wooded
""",
    "sky_adj": """
bitter bracing breezy chilly clammy clear cloudless cloudy cold cool crisp dry foggy freezing
frosty gusty hazy humid icy mild moonless moonlit overcast rainy showery starry still stormy
sultry sunny sweltering thundery unsettled warm wet windless windy wintry
""",
    "paper_adj": """
anonymous anxious brief candid crumpled curt dull elegant faded forged hasty illegible
incoherent indignant interminable lengthy learned long-awaited mysterious official
sealed secret sentimental tedious torn touching unread unsigned witty water-stained
""",
    "animal_adj": """
black bony bright-eyed brindled brown docile dappled fat fleet fluffy frisky gaunt glossy graceful
lame lean limping long-legged mangy mischievous motherless old playful plump pregnant
prize ragged ravenous shaggy sleek sleepy speckled spotted strong stray stubborn swift tame
tawny trembling watchful well-fed wild young
""",
    "plant_adj": """
blossoming bushy dying fragrant fresh-cut frostbitten gnarled late-flowering leafless luxuriant
mossy scarlet overgrown pale parched prickly rain-soaked ragged scented slender spindly stately
stunted sweet-smelling tangled thorny towering trailing wild wilting windblown withered
""",
    "food_adj": """
bland bitter burnt cheap cold delicious fresh fragrant frothy hot lukewarm mild nourishing
overcooked peppery rich salty savoury smoky sour spicy spiced stale steaming sticky sugary sweet
tasteless thick thin warm watery wholesome
""",
    "colour": """
amber auburn beige black brown crimson copper-coloured cream-coloured emerald golden indigo ivory
lilac maroon mauve ochre orange purple russet scarlet silvery turquoise vermilion violet
""",
    "idea_adj": """
absurd amusing ancient awkward baffling bitter bold brilliant childish clumsy comfortable common
costly cruel curious dangerous delicate deplorable dreadful embarrassing extraordinary fatal
feeble final foolish fortunate genuine glorious grave half-hearted harmless harsh hasty hopeless
humiliating idle impossible inconvenient ingenious innocent lamentable lasting ludicrous
memorable minor modest mutual needless noble old ominous painful peculiar perilous petty plausible
private profitable puzzling quaint reasonable regrettable remarkable ridiculous romantic sad
sensible serious shameful sincere sorry strange sudden surprising terrible thrilling
tiresome tragic trifling troublesome unexpected unfair unforeseen unforgivable unhappy unwelcome
urgent useful vague well-kept wonderful
""",
    "feature": """
bad_tempers big_ears broad_shoulders crooked_teeth dark_eyes deep_voices flat_feet good_memories
heavy_eyelids knotted_hands light_footsteps long_beards loud_voices neat_handwriting
nimble_fingers quick_tongues rosy_cheeks rough_palms sharp_eyes short_tempers soft_hearts
steady_nerves stiff_knees strong_opinions sweet_voices thick_eyebrows weak_eyes
""",
    "mood": """
alone amazed amused angry annoyed ashamed astonished bewildered calm cheerful comforted contented
delighted determined disappointed discouraged dismayed embarrassed exhausted flattered frightened
furious grateful homesick hopeful horrified hurt indifferent indignant jealous lonely miserable
mistaken mortified nervous offended overjoyed perplexed pleased puzzled ready relieved
reluctant sceptical shaken speechless startled surprised thankful touched troubled uneasy
unimpressed unprepared unwell vexed weary
""",
    # Adverbs.
    "manner": """
abruptly absently anxiously awkwardly bashfully bitterly bluntly boldly bravely briskly
calmly carefully carelessly cautiously cheerfully clumsily coldly courteously crossly
deftly deliberately diligently discreetly dreamily drowsily dutifully eagerly earnestly
faithfully fearfully feebly fiercely fondly frantically freely furiously furtively gallantly
generously gently gladly gracefully gratefully gravely grimly grudgingly hastily heartily heavily
helplessly hesitantly honestly hopefully humbly hurriedly idly impatiently indignantly innocently
intently jealously joyfully keenly kindly lazily lightly listlessly loudly lovingly loyally
meekly merrily methodically mournfully neatly nervously nimbly obediently obstinately painstakingly
patiently peacefully pensively placidly politely promptly proudly quickly quietly rapidly
reluctantly resolutely respectfully restlessly sadly savagely secretly serenely sheepishly
shyly silently skilfully sleepily slowly smoothly soberly softly solemnly steadily sternly
stiffly stubbornly suddenly sullenly swiftly tearfully tenderly thoughtfully tirelessly
triumphantly unwillingly vaguely vainly warily wearily wistfully
""",
    "often": """
always frequently generally habitually hardly_ever invariably never normally occasionally often
rarely regularly seldom sometimes usually
""",
    "seldom": "hardly_ever never rarely scarcely_ever seldom sometimes usually often always",
    "degree": """
almost altogether astonishingly decidedly distinctly entirely exceedingly extremely fairly
hopelessly perfectly quite rather remarkably singularly somewhat surprisingly thoroughly
too uncommonly unusually utterly very wonderfully
""",
    "sadly": """
apparently astonishingly clearly curiously evidently fortunately happily inevitably luckily
meanwhile naturally oddly_enough of_course perhaps predictably sadly strangely_enough
surprisingly undoubtedly unfortunately unhappily
""",
    # Verbs with a thing, a paper, cloth, food, a plant, a place, a person, or an idea.
    "do_thing": """
admire auction_off barter borrow bring_back bring_out buy clean collect conceal cover_up covet
damage deliver describe display dust examine exchange fetch find fling_away forget handle
hide hold_up inspect keep lend lift_down lock_away lose mend mislay notice offer own paint pawn
polish protect pull_out purchase recognise recover remove rent repair replace
request rescue reveal rub_down scrub search_for secure seize sell send_back set_aside
set_down shake show_off shut_away sketch smash stare_at steal store study tie_up test touch
treasure unearth unpack unwrap wash weigh wipe wrap_up
""",
    "do_paper": """
address alter annotate burn compose consult copy correct criticise decipher dictate draft
edit file finish fold forge ignore illustrate mislay misread misquote open peruse post
praise proofread publish quote read read_aloud reread recite revise rewrite scribble_over seal
send sign study submit summarise tear_up translate transcribe treasure unfold witness write
""",
    "do_cloth": """
air brush button_up cut_up darn dye embroider fold hang_up hem iron knit lay_out mend pack
patch press rinse sew shake_out smooth_out soak spread_out starch stitch stretch trim
try_on unfasten unpick unpin unravel wash wear
""",
    "do_food": """
boil burn chew cook devour enjoy nibble order prefer prepare recommend
refuse relish reheat salt sample savour serve share slice sniff spill stir swallow
sweeten taste
""",
    "do_plant": "gather grow inspect pluck prune sketch tend transplant trim uproot water",
    "do_place": """
abandon admire approach avoid behold circle cross describe encircle enter explore
glimpse haunt inherit map neglect overlook paint photograph reach remember
revisit search sketch skirt survey visit
""",
    "do_person": """
admire admonish advise amuse annoy assist astonish avoid beckon befriend bewilder blame bless
bribe chide comfort congratulate console contradict convince cheat defend defy deceive disappoint
distract distrust embarrass employ encourage envy escort evade ignore fear flatter follow forgive
frighten greet hail help hire humour imitate indulge insult interrupt introduce
irritate love mimic misjudge misunderstand mock nurse obey offend outwit overhear pacify pardon
persuade pester pity please praise question reassure rebuke refuse remind rescue resemble respect
reward ridicule salute scold shelter shun slander summon support surprise suspect
tease tempt thank threaten toast trick trust warn watch welcome
""",
    "do_idea": """
accept announce anticipate avoid bewail conceal consider debate defend denounce
deny describe deserve discuss dismiss dread endure exaggerate excuse explain face forget forgive
foresee fear hide ignore imagine investigate laugh_at mention misunderstand mourn outlive
overlook ponder proclaim question recall recollect regret reject remember resent
reveal ridicule suspect suffer survive tolerate understand welcome
""",
    "do_virtue": """
admire counterfeit cultivate deserve despise distrust encourage envy feign hide inspire
lack mistrust praise preach prize recommend respect reward value
""",
    "make": "build carve chisel craft design fashion forge hammer shape whittle",
    # Verbs without an object.
    "act": """
apologise applaud argue arrive awaken beam blink blush bow brood chuckle climb_down cough cringe
cry curtsy dance daydream despair doze fidget flinch frown gasp giggle glare grimace grin
groan grumble hesitate hum hurry_away interfere kneel laugh linger listen loiter meditate mumble
mutter nod object pace_about panic pause persist ponder pout pray protest quarrel reappear
recover relax remain_silent rest retire retreat return rise scowl shiver shout
shrug shudder sigh sing sleep slip_away smile smirk sneeze snore sob speak stammer stare
stay_behind stretch stumble stutter sulk sway tremble turn_away wait wake wander_off weep whisper
whistle wince yawn yield
""",
    "rest": "crouch doze kneel lean linger loiter pause remain shelter sit sleep stand wait",
    "travel": "hurry limp march pace plod ramble ride roam stride stroll trudge wander",
    "know": """
admit agree announce argue assume believe boast claim complain conclude confess decide declare deny
discover doubt dream estimate expect explain fear feel find forget grumble guess hear hint hope
imagine insist know learn maintain mutter notice observe predict pretend promise prove realise
recall reckon remark remember repeat reply report sense suggest suppose suspect understand
vow whisper
""",
    "say": """
add admit announce answer argue begin bellow boast bluster call complain confess cry declare
exclaim explain gasp growl grumble insist interrupt mumble murmur mutter observe plead
protest remark reply retort sigh snap sneer stammer suggest warn whisper
""",
    "beast_act": """
bolt doze drowse drink feed forage graze growl halt hide lie_down limp linger loiter pant prowl rest
shiver sleep sniff_about snort stir trot tremble wake wander whimper
""",
    "bird_act": """
alight call circle descend feed flock flutter glide hover land nest perch preen quarrel reappear
roost shriek sing soar swoop vanish wheel
""",
    "insect_act": "buzz creep crawl drone drift flit hover hum settle swarm vanish",
    "weather_act": """
arrive abate begin break cease clear continue die_down fade gather lift linger persist
rage return set_in slacken subside thicken threaten worsen
""",
    "weather_do": """
batter blanket buffet chill cover drench engulf flood hide lash obscure scour shake shroud soak
swallow sweep_across threaten
""",
    "glow_do": "brighten fall_across flood gild glint_on illuminate play_on soften touch warm",
    "water_act": "eddy flow foam gurgle meander murmur overflow ripple shimmer surge swirl trickle",
    "sound_do": """
alarm amuse annoy awaken comfort disturb drown_out follow frighten interrupt puzzle soothe startle
unsettle
""",
    "break_down": """
break bend burst collapse crack creak crumble decay fade fall_apart groan jam leak rattle rot rust
shake shatter shine splinter tarnish warp wobble
""",
    "virtue_do": """
attract betray bring_forth chase conceal conquer corrupt cure defeat destroy disguise drive_out
encourage excuse feed follow forgive heal invite kindle mask mock nourish outlast outlive
outshine outweigh poison precede prevent punish replace require resemble restrain reward sharpen
shorten soften sour spoil starve strangle strengthen sustain sweeten tame temper undermine weaken
""",
    "ache": "ache burn itch shake smart sting throb tingle tremble twitch",
    "judge": """
absurd bold brave careless characteristic civil clever considerate cruel decent foolish generous
good gracious impertinent kind mean natural noble odd polite prudent rash reckless rude selfish
sensible sporting tactless thoughtless thoughtful typical unkind unwise wicked wise
""",
    "stand": "lie nestle rise sleep sprawl stand",
}

"""The nouns and names of the generated prose, by kind; "_" stands for the blank in a phrase."""

NOUNS = {
    # People.
    "trade": """
apothecary archer architect astronomer auctioneer baker barber bargeman basketmaker beekeeper
blacksmith boatman bookbinder bookseller botanist brewer bricklayer butcher butler cabinetmaker
candlemaker carpenter carter caulker chandler chemist clerk clockmaker coachman cobbler collier
confectioner cook cooper coppersmith coroner curate customs_officer cutler dairymaid doctor
draper drayman dressmaker drover dyer engraver falconer farmer farrier ferryman fiddler fisherman
fishmonger fletcher forester fuller gamekeeper gardener gilder glassblower glazier glover
goldsmith governess greengrocer grocer groom gunsmith harpooner hatter herbalist herdsman
horse_dealer innkeeper ironmonger joiner judge knife-grinder lacemaker lamplighter laundress
lawyer librarian lighthouse_keeper locksmith magistrate maltster mason mercer midwife miller
milliner miner nurse organist ostler painter parson pedlar pilot ploughman plumber postman potter
preacher printer quarryman rector ropemaker saddler sailmaker sailor saltmaker sawyer schoolmaster
scrivener sculptor seamstress sexton shepherd shipwright shopkeeper signalman silversmith smelter
soldier spinner stableboy stationer stoker stonecutter surgeon surveyor swineherd tailor tanner
thatcher tiler tinker toymaker trapper tutor upholsterer verger vicar violinist vintner warden
washerwoman watchmaker watchman weaver wheelwright whittler woodcutter
""",
    "folk": """
stranger traveller neighbour lodger beggar pilgrim widow orphan newcomer visitor prisoner heiress
veteran bachelor scholar dreamer gossip apprentice servant poet hermit tenant landlord witness
volunteer deserter smuggler poacher runaway invalid spinster
""",
    "kin": """
aunt uncle cousin nephew niece grandmother grandfather sister brother godmother godfather
guardian grandson granddaughter stepfather stepmother mother father daughter son partner rival
employer pupil housekeeper bride
""",
    "female": """
Adela Agatha Alwyn Beatrix Bridget Cecily Clemence Constance Cordelia Delphine Dorothea Edith
Eleanor Elspeth Ernestine Esther Euphemia Felicity Flora Frances Georgina Gwendolen Harriet Helena
Henrietta Hester Honor Imogen Isolde Josephine Judith Katharine Lavinia Leonora Louisa Lucinda
Mabel Marguerite Martha Matilda Maud Mercy Millicent Miriam Muriel Nora Octavia Olive Ottilie
Patience Penelope Philippa Phoebe Prudence Rosalind Rosamund Rowena Ruth Selina Sibyl Sophia
Susannah Sylvia Tabitha Tamsin Theodora Thomasina Ursula Viola Wilhelmina
""",
    "male": """
Abel Ambrose Anselm Archibald Arthur Augustus Barnaby Basil Benedict Bertram Caleb Cedric Clement
Conrad Crispin Cuthbert Cyril Duncan Ebenezer Edmund Edric Edwin Ephraim Ernest Eustace Ezra Felix
Ferdinand Gabriel Geoffrey Gideon Gilbert Godfrey Gregory Hector Horace Hubert Hugo Humphrey
Ignatius Isaac Jasper Jonas Josiah Laurence Leopold Lionel Ludovic Magnus Matthias Mortimer
Nathaniel Nicholas Obadiah Oliver Osbert Oswald Percival Phineas Quentin Ralph Reginald Reuben
Roderick Rupert Septimus Silas Simeon Solomon Thaddeus Theobald Tobias Valentine Vincent Walter
Wilfred
""",
    "surname": """
Abbot Arkwright Ashdown Barlow Bellamy Birtwell Blackwood Bramley Calloway Carrow Chidwick
Coldbrook Copperthwaite Crabtree Danvers Dewhurst Dunmore Eastbrook Elphick Fairweather Farthing
Fenwick Fothergill Gainsford Gathercole Goodfellow Greaves Haldane Harrow Hathersage Hollis
Honeyman Ingleby Jellicoe Kettering Larkspur Lockhart Lovelace Marchbank Merriweather Netherby
Oakeshott Ormerod Pargeter Penhale Pettigrew Quarrier Ravenscroft Rookwood Sallow Satterthwaite
Skelton Sparrowhawk Stillwater Tansley Thistlewood Thorne Trelawney Underhill Vickers Wainwright
Waverley Whitlock Winterbourne Wolstenholme Yarrow
""",
    "title": """
Captain Doctor Parson Squire Colonel Professor Judge Farmer Widow Inspector Sergeant Deacon
Alderman Commodore Canon Constable Nurse Major
""",
    # Places.
    "town": """
Aldermoor Ambleford Arnside Barrowgate Birchover Brackenfell Briarcombe Broadstairs Calderwick
Carrowmere Cinderford Coldharbour Cragside Dunscar Eldersham Fallowdale Farrowby Fernhollow
Gallowgate Garthwaite Gorsemoor Greystoke Halewick Harrowby Heronsford Hollingbeck Ivelstone
Kestrelby Kingsbarrow Lambourne Larkhill Ludmarsh Marlpit Millhaven Mossthorpe Netherfold
Oldcastle Otterbourne Oxenholme Penmarsh Pitlochan Quarrybank Ravensmouth Rushmere Saltwick
Sedgeley Skelmere Snowdrift_Cross Stonehaven Summerleigh Tarnbeck Thornwick Tillingfold
Underbarrow Wexcombe Whinmoor Willowbourne Winterslow Wyrehead Yewdale
""",
    "building": """
abbey almshouse armoury bakehouse bank barn bathhouse boathouse brewery cathedral chapel
church coach_house cottage counting-house courthouse customs_house dairy distillery dovecote
farmhouse forge foundry gaol gatehouse glasshouse granary greenhouse grange hospital inn
laundry library lighthouse lodge malthouse manor market_hall mill monastery museum observatory
orangery parsonage pottery priory railway_station ropewalk sawmill schoolhouse shop
smithy stable store tannery tavern theatre tollhouse tower townhouse vicarage warehouse watermill
windmill workhouse workshop
""",
    "part": """
archway attic balcony banister beam bell-rope bolt buttress ceiling cellar chimney column
cornice door doorstep eave gable gate gutter hinge ledge lintel panel parapet pillar porch
rafter railing roof rooftop shutter skylight stair staircase step threshold tile turret
wall weathercock window windowsill
""",
    "land": """
bay beach bluff bog cape clearing cliff common copse crag dale dell downland dune estuary farmland
fell fen field forest gorge grove headland heath hill hillside hollow island knoll marsh
meadow moor mountain orchard paddock pasture peninsula plain plateau promontory quarry ravine
ridge saltmarsh sandbank shore slope spinney thicket upland valley vineyard warren woodland
""",
    "water": """
backwater bayou beck brook canal channel creek fountain harbour inlet lagoon lake lock mere
millpond mill-race pond pool reservoir rill river spring stream tarn trough waterfall weir
well whirlpool
""",
    "road": """
alley avenue boulevard bridge bridle_path bypath byway causeway cobbled_street
embankment footbridge footpath high_street highway jetty lane market_place pier promenade
quay road street terrace towpath track turnpike wharf
""",
    # Things.
    "metalware": """
anchor anvil basin bell birdcage brooch bucket buckle button candlestick cauldron chain chisel
coffee_pot coin compass corkscrew door_knocker fork funnel grate griddle hammer handbell hatchet
helmet hook horseshoe inkstand kettle key knife ladle lamp lantern letter-opener locket medal
nail needle oil_can padlock pan pickaxe poker pulley razor ring saw scythe shovel sickle
spade spoon spur telescope thimble tray trowel watering_can whistle wrench
""",
    "woodware": """
abacus barrel bow broom cane cask chair churn clock coat_hanger cradle crate crutch desk dresser
drum easel fence_post fiddle flute footstool frame handcart hatstand ladder lectern mallet mask
oar paddle picture_frame pipe plank rake rocking_horse rolling_pin rudder ruler shelf
spinning_wheel spindle stool table toy tub walking_stick wardrobe washboard wheelbarrow whistle
wine_cask yoke
""",
    "crockery": """
beaker bottle bowl butter_dish candle_holder cup decanter dish egg_cup figurine flask flowerpot
goblet inkwell jar jug mug pitcher plate platter pot sauce_boat saucer sugar_bowl
teacup teapot tumbler tureen urn vase
""",
    "clothes": """
apron bonnet boot bridal_veil cap cape cloak coat cravat dressing_gown frock glove handkerchief
hat hood jacket jerkin jersey mantle mitten muffler nightcap nightgown overcoat petticoat pinafore
riding_habit robe sash scarf shawl shirt skirt slipper smock stocking tunic veil waistcoat
""",
    "linen": """
bandage banner bedspread blanket carpet counterpane curtain cushion flag hammock mattress napkin
pillow pillowcase quilt ribbon rug sack sail tablecloth tapestry tent towel
""",
    "paper": """
almanac atlas ballad book calendar catalogue certificate chart chronicle contract deed diary
dictionary engraving envelope essay hymnal invitation inventory journal ledger letter licence
manuscript map memoir newspaper notebook notice novel pamphlet parcel passport petition play
poem portrait postcard prayer_book proclamation receipt recipe register report scroll sermon
sketch sonnet telegram timetable treatise warrant
""",
    "trifle": """
acorn bauble bead candle comb cork feather fishhook fossil hairpin kite lens marble matchbox
mirror pebble pincushion pocket_watch puppet rope seashell snuff-tin spool tinderbox top
umbrella violin_string wallet walnut wishbone
""",
    "metal": "brass bronze copper iron nickel pewter silver steel tin zinc",
    "wood": """
ash beechwood birchwood cedar cherrywood ebony elm lime mahogany maple oak pine rosewood teak
walnut willow yew
""",
    "clay": "china clay crystal earthenware glass marble porcelain soapstone stoneware terracotta",
    "fabric": """
calico canvas cashmere cotton damask felt flannel gauze hessian lace linen muslin sackcloth satin
serge silk tweed velvet wool
""",
    "furniture": """
armchair bed bookcase bookshelf bureau couch counter cupboard dining_table dressing_table
fireplace fireside hearth hearthstone mantelpiece pew piano settee sideboard sofa stove
tea_table washstand windowseat workbench writing_desk
""",
    "vehicle": """
barge brig caravan carriage cart coach cutter dinghy dray ferry fishing_smack frigate gig
hay_wain lifeboat locomotive omnibus punt raft rowing_boat schooner sleigh sloop steamer
stagecoach trawler trolley wagon whaleboat
""",
    "instrument": """
accordion bagpipe banjo bassoon bugle cello clarinet concertina cornet dulcimer guitar harp
harpsichord horn lute mandolin oboe organ piccolo tambourine trombone trumpet viola violin
""",
    # Living nature.
    "tree": """
alder almond_tree aspen beech birch blackthorn cherry_tree chestnut cypress elder elm fig_tree fir
hawthorn hazel holly hornbeam juniper larch laurel linden mulberry oak olive_tree pear_tree pine
plane_tree plum_tree poplar quince rowan spruce sycamore walnut_tree willow yew
""",
    "flower": """
anemone aster bluebell buttercup camellia campion carnation cornflower cowslip crocus daffodil
dahlia daisy dandelion foxglove gentian geranium harebell hollyhock hyacinth iris marigold nettle
orchid pansy peony poppy primrose rose snowdrop sunflower thistle tulip violet wallflower
""",
    "herb": """
basil bracken chamomile clover fennel heather ivy lavender mint moss parsley rosemary sage
tansy thyme
""",
    "beast": """
badger bear beaver bloodhound boar bull bullock calf carthorse colt cow deer dog donkey ferret
foal fox goat greyhound hare hedgehog heifer hound kid lamb mare marten mastiff mole mule ox
pig polecat pony puppy rabbit ram sheepdog spaniel squirrel stag stallion terrier vole weasel
""",
    "bird": """
blackbird bullfinch buzzard chaffinch cormorant corncrake crane crow cuckoo curlew dove duck
eagle falcon finch goose grouse gull hawk hen heron jackdaw jay kestrel kingfisher kite
lapwing lark linnet magpie mallard nightingale osprey owl partridge peacock pheasant pigeon plover
quail raven redwing robin rook rooster sandpiper seagull skylark snipe sparrow starling stork
swallow swift tern thrush wagtail woodpecker wren
""",
    "insect": """
ant bee beetle butterfly caterpillar cricket dragonfly gnat grasshopper hornet ladybird mayfly
midge moth snail spider wasp
""",
    "grain": "barley corn flax hay rye wheat",
    "fish": "carp cod crab eel haddock herring lobster mackerel perch pike salmon trout",
    # Food, weather, senses; all but "dish" cannot be counted.
    "food": """
bacon barley_bread broth butter cabbage_soup cheese cider cinnamon_toast cocoa coffee custard
gingerbread ham honey jam lemonade lentil_soup malt_whisky marmalade mead mustard mutton
oatmeal onion_gravy pea_soup pickled_herring plum_cake porridge raspberry_vinegar rice_pudding
roast_beef rye_bread salt_pork seed_cake shortbread stew strong_ale tea toffee treacle turnip_soup
venison wheat_bread
""",
    "crop": """
artichoke bean beetroot carrot cauliflower cherry cucumber currant gooseberry hop leek lettuce
onion parsnip pea pear plum potato pumpkin radish raspberry strawberry tomato turnip
""",
    "weather": """
blizzard cloudburst downpour drizzle fog frost gale hail hailstorm haze heatwave mist rain sleet
snow snowstorm squall storm sunshine tempest thaw thunder thunderstorm wind
""",
    "glow": "candlelight firelight lamplight moonlight starlight sunlight twilight",
    "sound": """
bark bellow buzz chime clang clatter creak crackle drone echo groan hiss hum jingle knock
laugh murmur patter peal rattle ripple roar rumble rustle scrape shriek sigh squeak thud
tinkle whinny whisper whistle
""",
    "smell": """
beeswax camphor charcoal cinnamon cloves coal coffee dust gunpowder incense leather
linseed_oil mildew new_bread old_paper peat pepper pipe_tobacco polish resin saddle_soap
sawdust seaweed smoke soap spice tar tobacco turpentine vinegar wet_wool wood_smoke
""",
    "body": """
ankle arm brow cheek chin elbow eyebrow finger foot forehead hand heart knee knuckle lip
neck shoulder sleeve throat thumb wrist
""",
    # What is thought, felt and done.
    "virtue": """
ambition anger beauty belief charity cheerfulness comfort compassion confidence contentment
courage courtesy curiosity delight despair dignity diligence discipline discretion doubt
enthusiasm envy experience faith fame fear forgiveness freedom friendship generosity gladness
gratitude greed grief happiness honesty honour hope humility humour ignorance
imagination innocence jealousy joy justice kindness knowledge laziness learning loneliness love
loyalty luck malice melancholy memory mercy modesty obedience old_age patience peace pity
pleasure poverty pride prudence remorse resentment sadness sarcasm shame silence sincerity
solitude sorrow stubbornness sympathy tact tenderness thrift tolerance trust truth vanity
vengeance wealth wisdom wit wonder youth
""",
    "idea": """
accident adventure advantage agreement alliance anecdote apology argument arrangement
bargain betrothal blunder burden calamity chance claim coincidence complaint compliment
compromise conclusion confession conspiracy debt decision defeat delay disagreement
disappointment disaster discovery disgrace dispute duty error excuse expedition failure favour
fortune friendship grievance habit idea impression inheritance injury injustice insult intention
interruption invention joke legacy legend lesson lie loss marriage misfortune misunderstanding
mystery oath obligation opinion opportunity parting plan prediction prejudice privilege problem
prophecy promise proposal punishment puzzle quarrel question reason refusal remedy reputation
reward rumour scheme secret shipwreck story success superstition surprise suspicion temptation
theory tradition triumph truce victory warning wish worry
""",
    "event": """
auction ball banquet baptism birthday celebration ceremony christening concert coronation
election engagement exhibition fair feast festival flood funeral harvest hunt inquest
lambing lecture market meeting parade picnic pilgrimage procession race
rebellion regatta rehearsal sermon siege strike supper trial voyage wake wedding
""",
    "study": """
algebra anatomy arithmetic astronomy botany chemistry chess dancing drawing embroidery fencing
geography geology geometry grammar Greek heraldry history Latin law logic mathematics medicine
music navigation needlework painting philosophy poetry politics rhetoric theology
""",
    "season": "spring summer autumn winter",
    "month": """
January February March April May June July August September October November December
""",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": """
four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen twenty thirty
forty fifty sixty
""",
    "ordinal": "first second third fourth fifth sixth seventh ninth tenth last",
    "unit": "hour day week month year",
    "hour": "dawn daybreak sunrise noon midday dusk sunset nightfall midnight twilight",
    "meal": "breakfast dinner lunch supper tea church prayers",
}
